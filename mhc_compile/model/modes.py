"""The traces that `transform` makes of a model: one for each mode, two where the graph depends on the gradient mode."""

from __future__ import annotations

import warnings
from collections.abc import Sequence
from dataclasses import dataclass, replace

import torch
from torch import nn

from mhc_compile.capture.inputs import Inputs
from mhc_compile.capture.set_up import finish_set_up, make_picklable
from mhc_compile.capture.side_effects import describe_effects, keep_dead_ends
from mhc_compile.capture.trace import Captured, capture
from mhc_compile.config import MODES, Config
from mhc_compile.errors import CaptureError, NoGraphError, UncompiledCodeWarning
from mhc_compile.model.several_graphs import in_several_graphs, plan_in_parts
from mhc_compile.passes.plan.apart import joined
from mhc_compile.passes.plan.data import Plan
from mhc_compile.programs.variants import plan_of, training_mode


@dataclass(frozen=True)
class ModeTrace:
    """One kind of call with its plan; `training` is the flag all modules had, None for the flags of the model.

    `captured` is None where it is no one graph: then Dynamo serves the calls.
    """

    training: bool | None
    captured: Captured | None
    plan: Plan


def _is(model: nn.Module, mode: str) -> bool:
    return model.training == (mode == "train")


def trace_modes(model: nn.Module, inputs: Inputs, config: Config, modes: Sequence[str]) -> list[ModeTrace]:
    """One trace per mode, the model's own first; two for evaluation if the graph depends on the gradient mode."""
    variants: list[ModeTrace] = []
    failed: dict[str, NoGraphError] = {}
    for mode in sorted(modes, key=lambda m: not _is(model, m)):
        try:
            variants += _trace_mode(model, inputs, config, mode, modes, variants)
        except NoGraphError as error:
            failed[mode] = error
    for mode, why in failed.items():
        if config.strict or not variants:
            raise why
        message = f"{str(why).splitlines()[0]}. In {mode} mode the model runs without hyper-connections"
        warnings.warn(message, UncompiledCodeWarning, stacklevel=4)
    return _in_agreement(variants, config)


def _in_agreement(variants: list[ModeTrace], config: Config) -> list[ModeTrace]:
    """A segment that ends in one mode ends in all: what is evaluated is what was trained."""
    agreed = list(variants)
    for i in [*range(len(agreed))] * len(agreed):  # where streams fork, an end for one site is one for others, too
        variant, others = agreed[i], [other.plan for other in (*agreed[:i], *agreed[i + 1 :])]
        if variant.captured is not None and joined(variant.plan, others):
            found = plan_of(variant.captured, config, [*others, variant.plan])
            notes = dict.fromkeys((*variant.plan.notes, _AGREED))
            agreed[i] = replace(variant, plan=replace(found, notes=tuple(notes)))
    return agreed


_AGREED = "segments end where they do in another mode, by what lies between two sites there"


def _trace_mode(
    model: nn.Module, inputs: Inputs, config: Config, mode: str, modes: Sequence[str], before: Sequence[ModeTrace]
) -> list[ModeTrace]:
    found = [trace_one(model, inputs, config, mode, modes, before)]
    if mode == "eval" and found[0].captured is not None and found[0].captured.grad_mode:
        with torch.no_grad():
            found.append(trace_one(model, inputs, config, mode, modes, [*before, *found]))
    return found


def trace_one(
    model: nn.Module,
    inputs: Inputs,
    config: Config,
    mode: str,
    modes: Sequence[str],
    before: Sequence[ModeTrace] = (),
    *,
    dynamic: bool = True,
) -> ModeTrace:
    """Capture and plan one mode: with the model's own flags if it is in this mode, else with every flag switched.

    Sizes of batch and sequence stay open if `dynamic`.
    """
    training = None if _is(model, mode) else mode == "train"
    try:
        with training_mode(model, training):
            captured = _capture(model, inputs, dynamic)
            if captured.effects:
                keep_dead_ends(captured.gm)
            found = plan_of(captured, config, [variant.plan for variant in before])
    except CaptureError as error:
        try:
            if not in_several_graphs(error):
                raise
            return ModeTrace(training, None, plan_in_parts(model, inputs, config, mode, error))
        except CaptureError as final:
            raise _in_mode(final, mode, training, modes) from error
    if captured.effects:
        note = f"a call changes {describe_effects(captured.effects)}: it runs through Dynamo, which does so each time"
        return ModeTrace(training, None, replace(found, notes=(*found.notes, *captured.notes, note)))
    return ModeTrace(training, captured, replace(found, notes=(*found.notes, *captured.notes)))


def _capture(model: nn.Module, inputs: Inputs, dynamic: bool) -> Captured:
    make_picklable(model)
    try:
        return capture(model, inputs.args, inputs.kwargs, dynamic=dynamic)
    except CaptureError:
        if not finish_set_up(model):
            raise
    return capture(model, inputs.args, inputs.kwargs, dynamic=dynamic)


def _in_mode(error: CaptureError, mode: str, training: bool | None, modes: Sequence[str]) -> CaptureError:
    if training is None or len(modes) == 1:
        return error
    other = next(m for m in MODES if m != mode)
    return type(error)(
        f"in {mode} mode: {error}\nIf {mode} mode is not needed, write transform(..., modes=('{other}',))"
    )
