"""Keep the streams at the start of every group of sites only; the backward restores the others.

A step of a site keeps the streams it reads for its backward. They are the streams at the start of the group, written to
by every site since then, and those sites keep their branch outputs and coefficients anyway. So each step but the first
of a group is given all that, and keeps it instead. No branch is run again, and no random number is drawn again: dropout
inside a branch is part of its output, and dropout (or anything else) on the streams between two sites ends a group.
"""

from __future__ import annotations

import operator
from dataclasses import dataclass

from torch import fx

from mhc_compile.config import Config
from mhc_compile.kernels.operators import single_pass
from mhc_compile.kernels.operators import streams as kernels
from mhc_compile.passes.graph.checkpointed import META as CHECKPOINT
from mhc_compile.passes.plan.data import Plan

_STEPS = (
    kernels.write_packed,
    kernels.boundary,
    kernels.leave,
    single_pass.single_boundary,
    single_pass.single_leave,
)
_ENTRY_STEPS = (kernels.entry_write_packed, kernels.entry_boundary, single_pass.entry_single_boundary)


@dataclass(frozen=True)
class _History:
    """Where streams come from: those at the start of their group, then branch output and mix of each site since."""

    start: fx.Node
    past: tuple[fx.Node, ...] = ()

    @property
    def sites(self) -> int:
        return len(self.past) // 2


def recompute(gm: fx.GraphModule, plan: Plan, config: Config) -> fx.GraphModule:
    """Give the steps of a fused graph what they restore their streams from, in place.

    Left out are streams behind an operation on all of them, streams that somebody else keeps (they start a group), the
    bodies of checkpointed blocks, which are recomputed as a whole, and connections without fused steps.
    """
    sizes = {key: config.group_size(len(s.sites)) for s in plan.segments for key in s.sites}
    histories: dict[fx.Node, _History] = {}
    for node in gm.graph.nodes:
        if node.target in _STEPS or node.target in _ENTRY_STEPS:
            _visit(node, sizes[node.meta["mhc"]["site"]], histories)
    return gm


def _visit(step: fx.Node, size: int, histories: dict[fx.Node, _History]) -> None:
    """Let one step restore its streams, and note where those behind it come from."""
    X, y, mix = step.args[:3]
    assert isinstance(X, fx.Node) and isinstance(y, fx.Node) and isinstance(mix, fx.Node)
    if CHECKPOINT in step.meta:
        return
    history = histories.get(X, _History(X))
    if history.sites >= size or not all(_keeps_nothing(user, X) for user in X.users):
        history = _History(X)
    if history.sites:
        step.kwargs = {**step.kwargs, "recompute": (history.start, *history.past)}
    following = _streams_behind(step)
    if following is not None:
        histories[following] = _History(history.start, (*history.past, y, mix))


def _keeps_nothing(user: fx.Node, X: fx.Node) -> bool:
    """Whether a user of streams keeps none of them for the backward, if it is given where they come from."""
    if user.target is kernels.reduce:
        return bool(user.kwargs["how"] != "learned")
    if user.target is single_pass.read_weights:
        return True
    return user.target in _STEPS and user.args[0] is X and CHECKPOINT not in user.meta


def _streams_behind(step: fx.Node) -> fx.Node | None:
    if step.target in (kernels.write_packed, kernels.entry_write_packed):
        return step
    return next((u for u in step.users if u.target is operator.getitem and u.args[1] == 0), None)
