"""What `mhc_compile.verify` says of one model of the zoo, in double precision."""

from __future__ import annotations

import copy
import time
from dataclasses import replace
from typing import Any

import torch
from torch import nn

import mhc_compile
from mhc_compile.errors import GraphBreakError, NothingToTransformError
from mhc_compile.verification.examine import FORMULAS, MODES, START, Check
from tests.zoo.build import EXPECTED, build
from tests.zoo.compare import cast, computes_in_float32
from tests.zoo.result import Result, failure_of

BOUND, BOUND_FLOAT32 = 1e-9, 1e-3
"""In units of the root mean square; the second where the model rounds to float32 on the way."""

NAMES = {START: "start", FORMULAS: "plan", MODES: "modes"}


def check_verified(target: str) -> Result:
    """Verify one model in both modes; never raises for what it does."""
    start = time.perf_counter()
    result = Result(target, EXPECTED[target]["sites"])
    try:
        result = _verified(result)
    except (NothingToTransformError, GraphBreakError) as error:
        result = replace(result, notes=(failure_of(error),))
        if result.expected and isinstance(error, NothingToTransformError):
            result = replace(result, failure="nothing was rewritten")
    except Exception as error:
        result = replace(result, failure=failure_of(error))
    return replace(result, seconds=time.perf_counter() - start)


def _verified(result: Result) -> Result:
    model, args, kwargs, bound = _in_double(*build(result.target, train=False))
    found = mhc_compile.verify(model, example_inputs=args, example_kwargs=kwargs)
    made = [check for check in found.checks if check.distance is not None]
    wrong = [check for check in made if not _distance(check) <= bound]
    return replace(
        result,
        sites=found.sites,
        errors={f"{check.mode or 'both'} {NAMES[check.what]}": _distance(check) for check in made},
        notes=tuple(f"{check.mode or 'both'} modes: {check.note}" for check in found.checks if check.distance is None),
        failure="; ".join(f"{check.mode} {check.what}: {_distance(check):.1e} {check.note}" for check in wrong),
    )


def _in_double(
    model: nn.Module, args: tuple[Any, ...], kwargs: dict[str, Any]
) -> tuple[nn.Module, tuple[Any, ...], dict[str, Any], float]:
    """The call in double precision, unless the model cannot, and the largest distance that rounding explains."""
    wide = copy.deepcopy(model).double(), cast(args, torch.float64), cast(kwargs, torch.float64)
    try:
        with torch.no_grad():
            rounds = computes_in_float32(
                lambda: copy.deepcopy(wide[0])(*copy.deepcopy(wide[1]), **copy.deepcopy(wide[2]))
            )
    except RuntimeError:  # it names a dtype, or an operator is there for some only
        return model, args, kwargs, BOUND_FLOAT32
    return *wide, BOUND_FLOAT32 if rounds else BOUND


def _distance(check: Check) -> Any:
    return check.distance
