"""Where `recompute` was asked for and sites keep their streams all the same: what a plan says of it."""

from __future__ import annotations

from collections.abc import Mapping

from torch import fx

from mhc_compile.config import Config
from mhc_compile.kernels.formulas.connections import find
from mhc_compile.passes.graph.checkpointed import META as CHECKPOINT
from mhc_compile.passes.plan.data import Plan
from mhc_compile.passes.plan.steps import StepKind


def recompute_notes(plan: Plan, nodes: Mapping[str, fx.Node], config: Config) -> tuple[str, ...]:
    """What a plan says about sites that keep their streams although `recompute` was asked for."""
    if config.recompute is None or not plan.sites:
        return ()
    if find(config.effective_connection, config.streams).manifold is None:
        name = config.effective_connection
        return (f"recompute has no effect: connection='{name}' has no steps that restore streams",)
    inside = sum(CHECKPOINT in nodes[site.add].meta for site in plan.sites)
    if inside:
        return (f"recompute leaves out {inside} sites in checkpointed blocks, which are recomputed as a whole",)
    if not any(step.kind is StepKind.BOUNDARY for step in plan.steps):
        return ("recompute has no effect: no site follows another without an operation on every stream between them",)
    if all(config.group_size(len(segment.sites)) == 1 for segment in plan.segments):
        return (f"recompute={config.recompute!r} has no effect: segments this short make groups of one site",)
    return ()
