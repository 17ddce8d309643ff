"""The passes in order: normalise, detect, plan; then rewrite, fuse, recompute. A dry run stops after the plan."""

from __future__ import annotations

import gc
from collections.abc import Collection, Iterator, Sequence
from contextlib import contextmanager

from torch import fx

from mhc_compile.config import Config
from mhc_compile.passes.decide.planner import plan_graph
from mhc_compile.passes.graph.ancestry import Ancestry
from mhc_compile.passes.graph.checkpointed import inline_checkpoints, outline_checkpoints
from mhc_compile.passes.graph.devices import follow_inputs
from mhc_compile.passes.graph.ends import end_streams
from mhc_compile.passes.graph.normalise import normalise
from mhc_compile.passes.history import Watch, unwatched
from mhc_compile.passes.plan.apart import joined
from mhc_compile.passes.plan.data import Plan
from mhc_compile.passes.plan.keys import Known
from mhc_compile.passes.rewrite.fuse import fuse
from mhc_compile.passes.rewrite.recompute import recompute
from mhc_compile.passes.rewrite.rewrite import rewrite_planned
from mhc_compile.passes.sources.lists import keeps_sources
from mhc_compile.passes.sources.rewrite import rewrite_over_sources
from mhc_compile.passes.split.label_stages import label_stages, split_steps, stage_of_sites
from mhc_compile.passes.split.partition import StageGraph, partition


def make_plan(
    gm: fx.GraphModule,
    config: Config,
    taken: Collection[str] = (),
    known: Known = (),
    watch: Watch = unwatched,
    others: Sequence[Plan] = (),
) -> Plan:
    """Plan the rewrite of a traced graph; nodes carry fake values in `meta["val"]` or `meta["example_value"]`.

    Site keys in `taken` belong to other graphs of the same model: a module used again there gets the next number. What
    `known` names are sites of other traces with their weights: the same weights have the same key in all of them.
    What `others`, the plans of these traces, have in two segments is in two here: streams are made to end between them.
    `watch` is entered around every pass.

    The graph is normalised in place (in-place writes become functional, checkpointed bodies are inlined); what it
    computes does not change.

    Raises:
        PatternError: an `include` or `exclude` glob matches no site.
    """
    with _no_collection():
        with watch("inline", gm):
            inline_checkpoints(gm)
        with watch("normalise", gm):
            normalise(gm)
        with watch("plan", gm):
            found, ended = plan_graph(Ancestry(gm), config, taken, known), set[str]()
            while more := set(joined(found, others)) - ended:
                end_streams(gm, more)
                ended |= more
                found = plan_graph(Ancestry(gm), config, taken, known)
            return found


def rewrite_graph(gm: fx.GraphModule, plan: Plan, config: Config, watch: Watch = unwatched) -> fx.GraphModule:
    """Apply the plan to the normalised graph it was made from, in place: not linted, see rewrite.py, nor recompiled.

    Most callers make a module of their own of the graph; who runs this one writes `gm.recompile()`.
    """
    with _no_collection():
        rewrite_open(gm, plan, config, watch)
        with watch("outline", gm):
            outline_checkpoints(gm)
    return gm


def rewrite_stages(gm: fx.GraphModule, plan: Plan, config: Config, at: Sequence[str]) -> list[StageGraph]:
    """Like `rewrite_graph`, but as one graph for each stage of a pipeline; `gm` is used up.

    Args:
        gm: with the new parameters under `hyper_connections`.
        plan: made from `gm`.
        config: the options it was made with.
        at: the first module of every stage but the first.

    Raises:
        UnknownCutError, CutOrderError, BranchCutError, SharedWriteError: see `label_stages`.
        UnsentValueError: see `partition`.
    """
    with _no_collection():
        label_stages(gm, plan, at)
        steps = split_steps(plan, stage_of_sites(gm, plan), at)
        stages = partition(fuse(_rewritten(gm, plan, config), steps), len(at) + 1, config.streams)
        for stage in stages:
            follow_inputs(stage.gm)
            _restore_streams(stage.gm, plan, config)
            outline_checkpoints(stage.gm)
            stage.gm.recompile()
    return stages


def rewrite_open(gm: fx.GraphModule, plan: Plan, config: Config, watch: Watch = unwatched) -> fx.GraphModule:
    """`rewrite_graph` with checkpointed bodies still inlined, for `nesting.py`, which calls them where they belong."""
    with _no_collection():
        with watch("rewrite", gm):
            _rewritten(gm, plan, config)
        with watch("fuse", gm):
            fuse(gm, plan)
        with watch("recompute", gm):
            _restore_streams(gm, plan, config)
    return gm


def _rewritten(gm: fx.GraphModule, plan: Plan, config: Config) -> fx.GraphModule:
    """Rewritten for the kind of state that the connection has."""
    return rewrite_over_sources(gm, plan, config) if keeps_sources(config) else rewrite_planned(gm, plan, config)


def _restore_streams(gm: fx.GraphModule, plan: Plan, config: Config) -> None:
    if config.recompute is not None:
        recompute(gm, plan, config)


@contextmanager
def _no_collection() -> Iterator[None]:
    """No garbage collection inside: a graph is one web of cycles that is walked again and again while it grows.

    That walk took a third of the time of a rewrite at 50,000 nodes, and found nothing to free.
    """
    enabled = gc.isenabled()
    gc.disable()
    try:
        yield
    finally:
        if enabled:
            gc.enable()
