"""What must hold for one model of the zoo: site count, function preserved, new parameters learn."""

from __future__ import annotations

import copy
import math
import time
import warnings
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Any

import torch
from torch import nn

from mhc_compile.errors import GraphBreakError, NothingToTransformWarning
from mhc_compile.passes.plan.reasons import Reason
from mhc_compile.verification.compare import distance
from tests.seeded import seeded
from tests.zoo.build import EXPECTED
from tests.zoo.build import build as build_zoo
from tests.zoo.compare import cast, computes_in_float32, off_by_one, random_loss, without_dropout
from tests.zoo.result import CheckError, Result, failure_of

Transform = Callable[..., nn.Module]

Build = Callable[..., tuple[nn.Module, tuple[Any, ...], dict[str, Any]]]

# Largest error relative to the root mean square of the output. One rounding of the stream costs 1e-16, 6e-8 and 4e-3;
# the bounds leave a few powers of ten for what the layers behind it make of that.
BOUNDS = {torch.float64: 1e-10, torch.float32: 1e-4, torch.bfloat16: 5e-2}

ALL = (torch.float64, torch.float32, torch.bfloat16)


def check(
    target: str,
    transform: Transform,
    *,
    build: Build = build_zoo,
    expected: Mapping[str, Any] | None = None,
    dtypes: Sequence[torch.dtype] = ALL,
    train: bool = True,
    kept: bool = True,
) -> Result:
    """Run every check on one model; never raises for what the model or `transform` does.

    Without `kept` results are to be finite only: some connections keep the function of some models.
    """
    start = time.perf_counter()
    facts = EXPECTED[target] if expected is None else expected
    run = _Run(target, transform, build, facts, Result(target, facts["sites"]), kept)
    modes = [(dtype, False) for dtype in dtypes] + ([(torch.float64, True)] if train else [])
    try:
        for dtype, training in modes:
            if not run.mode(dtype, training):
                break
    except Exception as error:
        run.result = replace(run.result, failure=failure_of(error))
    return replace(run.result, seconds=time.perf_counter() - start)


@dataclass
class _Run:
    """The checks of one model; `result` grows as they pass."""

    target: str
    transform: Transform
    build: Build
    facts: Mapping[str, Any]
    result: Result
    kept: bool = True

    def mode(self, dtype: torch.dtype, train: bool) -> bool:
        """Check one dtype in evaluation or training mode. False if `transform` refused a graph known to break."""
        try:
            self._check(dtype, train)
        except GraphBreakError:
            if self.facts.get("graphs_train" if train else "graphs", 1) == 1:
                raise
            self._note(f"{'training' if train else 'evaluation'} mode refused as expected: graph break")
            return False
        return True

    def _check(self, dtype: torch.dtype, train: bool) -> None:
        model, args, kwargs = self.build(self.target, train=train)
        if train:
            without_dropout(model)
        model, args, kwargs = model.to(dtype), cast(args, dtype), cast(kwargs, dtype)
        name = f"{'train' if train else 'eval'} {str(dtype).removeprefix('torch.')}"
        bound = self._bound(name, dtype, model, args, kwargs)
        if bound is not None:
            transformed = self._transform(model, args, kwargs, "train" if train else "eval")
            self._preserves(name, bound, model, transformed, args, kwargs)
            if train:
                self._learns(transformed, args, kwargs)
        elif train and dtype is torch.float64:
            self._check(torch.float32, train)

    def _preserves(
        self,
        name: str,
        bound: float,
        model: nn.Module,
        transformed: nn.Module,
        args: tuple[Any, ...],
        kwargs: dict[str, Any],
    ) -> None:
        """Compare the outputs of both models: the transformation must not change any at initialisation."""
        with torch.no_grad():
            before = copy.deepcopy(model.state_dict())
            reference = seeded(lambda: model(*args, **kwargs))
            model.load_state_dict(before)  # a codebook that follows what it sees would be another in the second call
            result = seeded(lambda: transformed(*args, **kwargs))
        error = distance(reference, result)
        self.result = replace(self.result, errors={**self.result.errors, name: error})
        if not self.kept and math.isfinite(error):
            return
        if not error <= bound and not (name.endswith("bfloat16") and self._rounds_as(model, args, kwargs, result)):
            raise CheckError(f"{name}: relative error {error:.1e} exceeds {bound:.0e}")

    def _rounds_as(self, model: nn.Module, args: tuple[Any, ...], kwargs: dict[str, Any], result: Any) -> bool:
        """Whether a result in bfloat16 is as near to the model in float32 as that of the model itself.

        Where a model chooses by rounded numbers, such as a router among experts, one rounding sends a token elsewhere:
        in the model, or in one whose weights are off in their last place.
        """
        wide, single = copy.deepcopy(model).float(), (cast(args, torch.float32), cast(kwargs, torch.float32))
        with torch.no_grad():
            exact = cast(seeded(lambda: wide(*single[0], **single[1])), torch.bfloat16)
            alike = (model, *(off_by_one(model, seed) for seed in range(4)))
            own = max(distance(exact, seeded(lambda m=m: m(*args, **kwargs))) for m in alike)
        if near := distance(exact, result) <= own:
            self._note(f"the model itself is {own:.0e} off in bfloat16, and so far the result may be")
        return near

    def _learns(self, transformed: nn.Module, args: tuple[Any, ...], kwargs: dict[str, Any]) -> None:
        """Two steps of SGD: finite losses, and a gradient in step 1 or 2 for every new parameter.

        Where the graph is known to break in training only, branches that hold a break are no sites there.
        """
        if site_count(transformed) == 0:
            return
        optimizer = torch.optim.SGD(transformed.parameters(), lr=1e-2)
        new = dict(transformed.get_submodule("hyper_connections").named_parameters())
        silent = set(new)
        for step in (1, 2):
            optimizer.zero_grad()
            loss = random_loss(transformed(*args, **kwargs))
            if not loss.isfinite():
                raise CheckError(f"training: the loss of step {step} is {loss.item()}")
            loss.backward()
            silent -= {name for name in silent if has_gradient(new[name])}
            nn.utils.clip_grad_norm_(transformed.parameters(), 1.0)
            optimizer.step()
        if silent:
            text = f"{len(silent)} of {len(new)} new parameters have no gradient: {', '.join(sorted(silent)[:3])}"
            if len(silent) == self.facts.get("silent", 0):
                self._note(f"{text}, as the model has it: {self.facts['notes']}")
            elif self.facts.get("graphs_train", 1) == 1 or len(silent) == len(new):
                raise CheckError(f"training: {text}")
            else:
                self._note(f"{text}; with gradients on, the graph breaks, and a residual around a break is left alone")

    def _bound(
        self, name: str, dtype: torch.dtype, model: nn.Module, args: tuple[Any, ...], kwargs: dict[str, Any]
    ) -> float | None:
        """The bound for `dtype`, that of float32 if the model rounds to it, None if the model cannot compute in it."""
        try:
            with torch.no_grad():
                rounds = computes_in_float32(lambda: model(*args, **kwargs)) and dtype is torch.float64
        except (RuntimeError, ValueError, TypeError) as error:
            if dtype is torch.float32:
                raise
            self._note(f"{name} left out: the model itself fails ({type(error).__name__})")
            return None
        if rounds:
            self._note(f"{name}: the model rounds to float32, so its bound applies")
        return BOUNDS[torch.float32 if rounds else dtype]

    def _transform(self, model: nn.Module, args: tuple[Any, ...], kwargs: dict[str, Any], mode: str) -> nn.Module:
        """Transform for one mode, and compare the number of sites; the original must stay as it was."""
        torch.compiler.reset()
        before = {name: tensor.clone() for name, tensor in model.state_dict().items()}
        with warnings.catch_warnings():
            warnings.simplefilter("ignore", NothingToTransformWarning)
            transformed = self.transform(model, n=4, example_inputs=args, example_kwargs=kwargs, modes=(mode,))
        after = model.state_dict()
        if list(before) != list(after) or not all(torch.equal(before[name], after[name]) for name in before):
            raise CheckError("the transformation changed the state of the original model")
        sites = site_count(transformed) + dead_count(transformed)
        if dead_count(transformed):
            self._note(f"{dead_count(transformed)} of the residual adds never reach an output and stay plain")
        self.result = replace(self.result, sites=sites)
        expected = self.facts.get(f"sites_{mode}", self.result.expected)
        if expected is not None and sites != expected:
            raise CheckError(f"found {sites} sites, expected {expected}")
        return transformed

    def _note(self, text: str) -> None:
        if text not in self.result.notes:
            self.result = replace(self.result, notes=(*self.result.notes, text))


def site_count(model: nn.Module) -> int:
    """Number of sites that were rewritten; 0 for a model that was returned unchanged."""
    plan = getattr(model, "mhc_plan", None)
    return 0 if plan is None else len(plan.sites)


def dead_count(model: nn.Module) -> int:
    """Number of proven residual adds whose result is thrown away: they are found, but could not learn anything."""
    plan = getattr(model, "mhc_plan", None)
    return 0 if plan is None else sum(r.reason is Reason.DEAD for r in plan.rejected)


def has_gradient(parameter: torch.Tensor) -> bool:
    """Whether its gradient is there and not all zero."""
    return parameter.grad is not None and bool(parameter.grad.count_nonzero())
