"""Traces of one model for several kinds of calls, all over the same new parameters."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from typing import TYPE_CHECKING, Any

import torch
from torch import nn

from mhc_compile import _torch_compat as compat
from mhc_compile.capture import Captured, capture
from mhc_compile.config import Config
from mhc_compile.errors import CaptureError
from mhc_compile.hosts import for_trace
from mhc_compile.owner import Transformed, disown
from mhc_compile.passes.plan import Plan
from mhc_compile.program import Program, build_program
from mhc_compile.whole import make_whole

if TYPE_CHECKING:
    from mhc_compile.passes.parameters import ParameterSpec

MAX_VARIANTS = 64


@contextmanager
def training_mode(model: nn.Module, training: bool | None) -> Iterator[None]:
    """Set the training flag of every module, None for as they are, and put each back afterwards.

    Flags are set directly: a model's own `train()` may do more than that, and would not be undone.
    """
    before = [(m, m.training) for m in model.modules()]
    try:
        for module, flag in before:
            module.training = flag if training is None else training
        yield
    finally:
        for module, flag in before:
            module.training = flag


def plan_of(captured: Captured, config: Config, known: Sequence[Plan] = ()) -> Plan:
    """The plan of a captured graph, which is normalised in place; `known` are those of other traces of the model."""
    from mhc_compile.passes.pipeline import make_plan

    return make_plan(captured.gm, config, known=[(site.key, site.weights) for plan in known for site in plan.sites])


def specs_of(plan: Plan, config: Config) -> dict[str, ParameterSpec]:
    """The new parameters a plan asks for, by key."""
    from mhc_compile.passes.parameters import parameter_specs

    return parameter_specs(plan, config)


def all_specs(plans: Sequence[Plan], config: Config) -> dict[str, ParameterSpec]:
    """The new parameters that several plans ask for, by key; the first plan that names a key decides."""
    specs: dict[str, ParameterSpec] = {}
    for plan in plans:
        specs = {**specs, **{key: spec for key, spec in specs_of(plan, config).items() if key not in specs}}
    return specs


def add_program(owner: Transformed, captured: Captured, plan: Plan) -> Program:
    """Rewrite a captured graph and give it to `owner` as a program for its current state."""
    from mhc_compile.passes.pipeline import rewrite_open

    gm = rewrite_open(captured.gm, plan, owner._mhc.config)
    program = build_program(captured, gm, owner)
    owner._mhc.programs.append(program)
    return program


def add_variant(owner: Transformed, args: Sequence[Any], kwargs: Mapping[str, Any]) -> Program:
    """Trace the original forward for a call that no program of `owner` serves.

    Raises:
        CaptureError: it cannot be traced, needs parameters that `owner` does not have, or is one too many.
    """
    if len(owner._mhc.programs) >= MAX_VARIANTS:
        raise CaptureError(
            f"the model was traced for {MAX_VARIANTS} kinds of calls already, a value or size changes at every call: "
            "pass it as a tensor, or pad inputs to fewer sizes"
        )
    plain = disown(owner, for_trace)
    make_whole(plain, compat.sharded_dtypes(owner.modules()))
    captured = capture(plain, args, kwargs)
    plan = plan_of(captured, owner._mhc.config, owner._mhc.plans)
    check_parameters(owner, plan)
    return add_program(owner, captured, plan)


def check_parameters(owner: Transformed, plan: Plan) -> None:
    """Every parameter the plan asks for must exist in the right shape: new ones would be unknown to the optimizer."""
    for key, spec in specs_of(plan, owner._mhc.config).items():
        known = key in owner.hyper_connections
        shapes = {n: tuple(p.shape) for n, p in owner.hyper_connections[key].named_parameters()} if known else None
        if shapes != {n: tuple(s) for n, s in spec.shapes.items()}:
            what = "was not there" if not known else f"had parameters of shapes {shapes}, not {dict(spec.shapes)},"
            raise CaptureError(
                f"this call reaches the residual connection {key}, which {what} in the example inputs: "
                "write transform(model, example_inputs=...) with inputs that take this path, "
                f"or leave it out with exclude=['{key}']"
            )


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
