"""Traces of one model for several kinds of calls, all over the same new parameters."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from contextlib import contextmanager, nullcontext
from dataclasses import replace
from functools import partial
from typing import Any

from torch import nn

from mhc_compile import _torch_compat as compat
from mhc_compile.capture.trace import Captured, capture
from mhc_compile.config import Config
from mhc_compile.passes.plan.data import Plan
from mhc_compile.programs.coverage import check_parameters, check_sites, stay_plain, warn_of_foreign, warn_of_joined
from mhc_compile.programs.dispatch import FORWARD, Entry
from mhc_compile.programs.distributed import called_whole, check_uncut, modules_to_call, spread_over
from mhc_compile.programs.ownership import Served
from mhc_compile.programs.plain_part import plain_part
from mhc_compile.programs.program import Program, build_program
from mhc_compile.programs.specs import known_sites
from mhc_compile.programs.unsharded import without_transforms


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
    from mhc_compile.passes.order import make_plan  # late

    return make_plan(captured.gm, config, known=known_sites(known), others=known)


def add_program(
    owner: Served, entry: Entry, captured: Captured, plan: Plan, whole: frozenset[str] = frozenset()
) -> Program:
    """Rewrite a captured graph and give it to `entry` as a program for the current state of `owner`.

    `whole` names modules with marks on their borders, where the model is distributed over processes.
    """
    from mhc_compile.passes.order import rewrite_open  # late

    gm = rewrite_open(captured.gm, plan, owner._mhc.config)
    if whole:
        spread_over(gm, owner)
    program = build_program(captured, gm, owner, entry.path, whole)
    entry.programs.append(program)
    warn_of_foreign(owner, plan)
    return program


def add_variant(owner: Served, entry: Entry, args: Sequence[Any], kwargs: Mapping[str, Any]) -> Program | None:
    """Trace the original code for a call that no program of `entry` serves; None if it does more than compute.

    Raises:
        CaptureError: it cannot be traced, or needs parameters that `owner` does not have.
        ParallelError: the model is distributed over processes in a way that does not work.
    """
    check_uncut(owner, {name for program in entry.programs for name in program.reads.classes})
    whole = called_whole(owner)
    program = _add(owner, entry, args, kwargs, whole)
    if program is not None:  # those from before the model was distributed will not serve it any more
        entry.programs = [p for p in entry.programs if bool(p.reads.parallel) == bool(whole)]
    return program


def trace_ahead(owner: Served, calls: Iterable[tuple[Sequence[Any], Mapping[str, Any]]]) -> None:
    """Trace kinds of calls now that are to be made once the model is distributed over processes, and no others.

    Code that is told of its processes, such as a mixture of experts that sends tokens, may be traced before only.
    """
    entry = owner._mhc.entry("")
    entry.programs.clear()
    for args, kwargs in calls:
        _add(owner, entry, args, kwargs, modules_to_call(owner))
    # They hold no operators but those of the rewrite, which run on any device.
    entry.programs[:] = [replace(p, input_spec=p.input_spec.on_any_device()) for p in entry.programs]


def _add(
    owner: Served, entry: Entry, args: Sequence[Any], kwargs: Mapping[str, Any], whole: frozenset[str]
) -> Program | None:
    plain, changing = plain_part(owner, entry.path, whole, entry.method), _changing(entry, args, kwargs)
    transformed = compat.functorch_active()
    if transformed:  # only then: objects that are made anew may have their entries in another order
        args, kwargs = compat.tree_map(without_transforms, (tuple(args), dict(kwargs)))
    with compat.functorch_left() if transformed else nullcontext():
        captured = capture(plain, args, kwargs, path=entry.path, open_axes=changing)
    if captured.effects:
        return None
    plan = plan_of_part(captured, owner) if entry.called else plan_of_whole(captured, owner)
    check_parameters(owner, plan)
    warn_of_joined(plan, owner._mhc.plans)
    read = {str(node.target) for node in captured.gm.graph.find_nodes(op="get_attr")}
    if plan.float_adds or entry.method == FORWARD:  # a method that adds up nothing may call a branch
        check_sites(owner, entry.path, {site.key for site in plan.sites}, read, entry.called)
    return add_program(owner, entry, captured, plan, whole)


def plan_of_whole(captured: Captured, owner: Served) -> Plan:
    """The plan of another call of the model; what was left alone in the example inputs is left alone in it."""
    return _plan_without(captured, owner, owner._mhc.config, partial(stay_plain, owner))


def plan_of_part(captured: Captured, owner: Served) -> Plan:
    """The plan of a module that is called alone: the sites that it has in the whole model, and no others."""
    everything = replace(owner._mhc.config, include=(), exclude=(), min_sites=1)
    known = {*owner.hyper_connections.itself, *(site.key for plan in owner._mhc.plans for site in plan.sites)}
    return _plan_without(captured, owner, everything, lambda plan: [s.key for s in plan.sites if s.key not in known])


def _plan_without(captured: Captured, owner: Served, config: Config, unwanted: Callable[[Plan], Iterable[str]]) -> Plan:
    plan = plan_of(captured, config, owner._mhc.plans)
    while others := tuple(unwanted(plan)):  # what a site left out displaced comes back
        config = replace(config, exclude=(*config.exclude, *others))
        plan = plan_of(captured, config, owner._mhc.plans)
    return plan


def _changing(entry: Entry, args: Sequence[Any], kwargs: Mapping[str, Any]) -> dict[int, set[int]]:
    """Axes of the flat inputs whose sizes differ from those of an earlier call of the same kind."""
    flat, tree = compat.tree_flatten((tuple(args), dict(kwargs)))
    changing: dict[int, set[int]] = {}
    for spec in (program.input_spec for program in entry.programs if program.input_spec.alike(flat, tree)):
        for index, value in enumerate(flat):
            sizes = list(zip(spec.shape(index), getattr(value, "shape", ()), strict=False))
            axes = {axis for axis, (known, now) in enumerate(sizes) if known != now and 1 not in (known, now)}
            changing.setdefault(index, set()).update(axes)
    return changing
