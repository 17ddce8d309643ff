"""From a model and inputs to the transformed model: trace, plan, own."""

from __future__ import annotations

import copy
from collections.abc import Sequence
from dataclasses import dataclass

import torch
from torch import fx, nn

from mhc_compile._torch_compat import tree_flatten
from mhc_compile.capture.inference import make_ordinary
from mhc_compile.capture.inputs import Inputs, missing_inputs
from mhc_compile.capture.wrapped import reject_wrapped
from mhc_compile.config import Config
from mhc_compile.errors import CaptureError, NoFloatError
from mhc_compile.model.modes import ModeTrace, trace_modes
from mhc_compile.model.owner import own
from mhc_compile.model.serve import follow
from mhc_compile.passes.plan.data import Plan
from mhc_compile.passes.plan.reasons import Reason
from mhc_compile.programs.dispatch import kind_of
from mhc_compile.programs.distributed import undistributed
from mhc_compile.programs.ownership import Served
from mhc_compile.programs.specs import initial_sites, weights_of
from mhc_compile.programs.untransformed import check_untransformed
from mhc_compile.programs.variants import add_program, training_mode
from mhc_compile.twin.hyper_connections import CHILD
from mhc_compile.twin.parallel import mark_as_others
from mhc_compile.twin.reserved import OWNERSHIP, PLAN, check_free


@dataclass(frozen=True)
class Trace:
    """What is rewritten for one mode.

    Attributes:
        mode: "train" or "eval".
        training: the flag all modules have, None for the flags of the model.
        one_graph: whether the call is one; else Dynamo serves it.
        gm: the graph before it is rewritten, if those were to be kept.
        plan: made from it.
    """

    mode: str
    training: bool | None
    one_graph: bool
    gm: fx.GraphModule | None
    plan: Plan


@dataclass(frozen=True)
class Made:
    """What a model became.

    Attributes:
        owner: the transformed model; None if there was nothing to rewrite.
        inputs: those it was traced with.
        config: the options.
        plans: of all traces.
        traces: one for each kind of call.
    """

    owner: Served | None
    inputs: Inputs | None
    config: Config
    plans: tuple[Plan, ...]
    traces: tuple[Trace, ...] = ()


def make(
    model: nn.Module, inputs: Inputs | None, config: Config, modes: Sequence[str], *, keep_graphs: bool = False
) -> Made:
    """Trace, plan and rewrite a model that `check_model` let through."""
    make_ordinary(model)
    with torch.inference_mode(False), torch.enable_grad():  # the result is to be trained, wherever this is called
        if inputs is None:
            plans, variants = [plan_without_inputs(model, config)], []
        else:
            whole = undistributed(model)
            variants = trace_modes(model if whole is None else whole, inputs, config, modes)
            plans = [v.plan for v in variants]
            if whole is not None:  # programs call the modules as they are, and are traced at the first calls
                variants = []
        if not any(p.sites for p in plans):
            return Made(None, inputs, config, tuple(plans))
        traces = tuple(_trace(model, variant, keep_graphs) for variant in variants)
        owner = own(model, initial_sites(plans, config, model), plans, config)
        owner.hyper_connections.weights.update(weights_of(plans))
        mark_as_others(model, owner.hyper_connections.parameters())
        for variant in variants:
            with training_mode(owner, variant.training):
                _serve(owner, variant, inputs)
        follow(owner)  # else the first compiled call would, and the next be compiled anew
    return Made(owner, inputs, config, tuple(plans), traces)


def check_model(model: object) -> None:
    """Refuse what cannot be transformed, before anything is traced.

    Raises:
        MhcError: it is no module, is or holds a transformed or wrapped one, or uses a name that is needed.
    """
    model = check_untransformed(model)
    reject_wrapped(model)
    check_free(model, (CHILD, PLAN, OWNERSHIP))


def plan_without_inputs(model: nn.Module, config: Config) -> Plan:
    """The plan by `symbolic_trace`, which needs no inputs; programs are then traced at the first calls."""
    from mhc_compile.passes.order import make_plan  # late

    if not any(p.is_floating_point() or p.is_complex() for p in model.parameters()):
        raise NoFloatError(
            f"{type(model).__name__} has no floating point parameters, so nothing says that it computes on floats: "
            "pass floating point example_inputs"
        )
    try:
        found = make_plan(fx.symbolic_trace(model), config)
    except CaptureError:
        raise
    except Exception as error:
        raise missing_inputs(model, f"symbolic_trace: {error}") from error
    if not found.sites and any(r.reason is Reason.UNKNOWN_CHANNELS for r in found.rejected):
        raise missing_inputs(model, "the sizes of its residual connections are unknown")
    return found


def _trace(model: nn.Module, variant: ModeTrace, keep_graph: bool) -> Trace:
    """With a copy of the graph, which is rewritten in place; parameters are those of the model."""
    training = model.training if variant.training is None else variant.training
    captured, gm = variant.captured, None
    if keep_graph and captured is not None:
        gm = fx.GraphModule(captured.gm, copy.deepcopy(captured.gm.graph))
    return Trace("train" if training else "eval", variant.training, captured is not None, gm, variant.plan)


def _serve(owner: Served, variant: ModeTrace, inputs: Inputs | None) -> None:
    entry = owner._mhc.entry("")
    if variant.captured is not None:
        add_program(owner, entry, variant.captured, variant.plan)
    elif inputs is not None:
        flat, tree = tree_flatten((inputs.args, inputs.kwargs))
        for gradients in (True, False):
            with torch.set_grad_enabled(gradients):
                entry.kinds.add(kind_of(owner, flat, tree))
