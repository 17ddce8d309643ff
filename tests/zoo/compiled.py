"""A model of the zoo compiled with `mhc_compile.backend`, in a form that the checks of `transform` take."""

from __future__ import annotations

import copy
from collections.abc import Mapping, Sequence
from dataclasses import replace
from typing import Any

import torch
from torch import nn

import mhc_compile
from mhc_compile.errors import GraphBreakError
from mhc_compile.passes.plan.data import Plan
from tests.zoo.result import CheckError


class Compiled(nn.Module):
    """Calls the compiled model; `mhc_plan` holds the sites of all its graphs, each key once."""

    def __init__(self, model: nn.Module, compiled: nn.Module, plan: Plan) -> None:
        super().__init__()
        self.model, self.mhc_plan = model, plan
        object.__setattr__(self, "compiled", compiled)  # not a second time among the submodules

    def forward(self, *args: Any, **kwargs: Any) -> Any:
        return self.compiled(*args, **kwargs)

    def get_submodule(self, target: str) -> nn.Module:
        return self.model.get_submodule(target)


def compiled(
    model: nn.Module,
    n: int,
    *,
    example_inputs: Sequence[Any],
    example_kwargs: Mapping[str, Any],
    modes: Sequence[str],
    inner: str,
) -> nn.Module:
    """A compiled copy of the model.

    Raises:
        CheckError: its site keys are not those of `mhc_compile.plan`, where that finds one graph. Their order may be
            another where there are graph breaks with gradients only.
    """
    backend = mhc_compile.backend(n=n, inner=inner)
    twin = copy.deepcopy(model)
    records = backend.attach(twin, example_inputs, example_kwargs, modes=modes)
    keys = list(dict.fromkeys(site.key for record in records for site in record.plan.sites))
    wanted = planned_keys(model, n, example_inputs, example_kwargs)
    if wanted is not None and keys != wanted and (set(keys) != set(wanted) or all(r.origin.whole for r in records)):
        raise CheckError(f"the backend finds {differences(keys, wanted)}")
    if not keys:
        return model
    sites = {site.key: site for record in records for site in record.plan.sites}
    rejected = tuple(r for record in records for r in record.plan.rejected)
    plan = replace(records[0].plan, sites=tuple(sites.values()), rejected=rejected)
    return Compiled(twin, torch.compile(twin, backend=backend), plan)


def planned_keys(
    model: nn.Module, n: int, example_inputs: Sequence[Any], example_kwargs: Mapping[str, Any]
) -> list[str] | None:
    """The site keys that `transform` finds, None where it refuses a graph break."""
    try:
        plan = mhc_compile.plan(model, n, example_inputs=example_inputs, example_kwargs=example_kwargs)
    except GraphBreakError:
        return None
    return [site.key for site in plan.sites]


def differences(found: Sequence[str], wanted: Sequence[str]) -> str:
    """What two lists of keys do not share."""
    extra, missing = sorted(set(found) - set(wanted)), sorted(set(wanted) - set(found))
    return f"{len(extra)} keys more {extra[:3]}, {len(missing)} fewer {missing[:3]}, of {len(wanted)}"
