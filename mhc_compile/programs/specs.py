"""The new parameters that the plans of a model ask for: shapes, initial values, and the weights they belong to."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING

import torch
from torch import nn

from mhc_compile.config import Config
from mhc_compile.passes.plan.data import Plan
from mhc_compile.passes.plan.keys import Known

if TYPE_CHECKING:
    from mhc_compile.passes.plan.parameters import ParameterSpec


def specs_of(plan: Plan, config: Config) -> dict[str, ParameterSpec]:
    """The new parameters a plan asks for, by key."""
    from mhc_compile.passes.plan.parameters import parameter_specs  # late, for it imports kernels

    return parameter_specs(plan, config)


def all_specs(plans: Sequence[Plan], config: Config) -> dict[str, ParameterSpec]:
    """The new parameters that several plans ask for, by key; the first plan that names a key decides."""
    specs: dict[str, ParameterSpec] = {}
    for plan in plans:
        specs = {**specs, **{key: spec for key, spec in specs_of(plan, config).items() if key not in specs}}
    return specs


def weights_of(plans: Sequence[Plan]) -> dict[str, tuple[str, ...]]:
    """Site key -> names of the matrices in its branch; the first plan that names a key decides."""
    return {site.key: site.weights for plan in reversed(plans) for site in plan.sites}


def known_sites(plans: Sequence[Plan]) -> Known:
    """The keys of several plans with what they are known by; the first plan that names a key decides."""
    marks = {site.key: (site.told_by,) for plan in reversed(plans) for site in plan.sites if site.told_by}
    return [(key, (*weights, *marks.get(key, ()))) for key, weights in weights_of(plans).items()]


def initial_sites(
    plans: Sequence[Plan], config: Config, model: nn.Module
) -> dict[str, tuple[str, Mapping[str, torch.Tensor]]]:
    """Identifier and initial values of every parameter the plans ask for."""
    first = next(model.parameters(), None)
    device = first.device if first is not None else torch.device("cpu")
    dtypes = {site.key: site.dtype for plan in plans for site in plan.sites}
    doubles = any(p.dtype == torch.float64 for p in model.parameters())
    sites: dict[str, tuple[str, Mapping[str, torch.Tensor]]] = {}
    for key, spec in all_specs(plans, config).items():
        double = dtypes[key].endswith("float64") if key in dtypes else doubles
        sites[key] = (spec.identifier, spec.initial_values(torch.float64 if double else torch.float32, device))
    return sites
