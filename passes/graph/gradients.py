"""Where a graph computes without gradients: what is emitted for a site belongs to where its branch is computed."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence

from torch import fx

from mhc_compile.passes.graph.op_kinds import Kind, canonical_name, kind_of
from mhc_compile.passes.plan.data import Plan

_CUTS = frozenset({"detach", "detach_", "stop_gradient"})


def is_switch(node: fx.Node) -> bool:
    """Whether the node turns gradients on or off for what follows."""
    return getattr(node.target, "__name__", "") == "_set_grad_enabled"


def gradient_modes(nodes: Iterable[fx.Node]) -> dict[fx.Node, bool]:
    """For each node in graph order, whether gradients are on where it is computed."""
    modes: dict[fx.Node, bool] = {}
    enabled = True
    for node in nodes:
        enabled = bool(node.args[0]) if is_switch(node) else enabled
        modes[node] = enabled
    return modes


def place_with_gradients(nodes: Sequence[fx.Node], value: int, reader: int) -> fx.Node:
    """Where to compute with the value at position `value` what the node at position `reader` reads first.

    The value itself, or the node behind it that turns gradients on again.
    """
    on = (node for node in reversed(nodes[value:reader]) if is_switch(node) and node.args[0] is True)
    return next(on, nodes[value])


def notes(plan: Plan, nodes: Mapping[str, fx.Node]) -> tuple[str, ...]:
    """What a plan says about hyper-connections that no loss can reach."""
    if not plan.sites:
        return ()
    modes = gradient_modes(nodes.values())
    reached = _reached(list(nodes.values()), modes)
    deaf = [s.key for s in plan.sites if not (modes[nodes[s.add]] and reached[nodes[s.add]])]
    if not deaf:
        return ()
    shown = ", ".join(deaf[:3]) + (", ..." if len(deaf) > 3 else "")
    return (
        f"no gradient reaches the hyper-connections of {shown}: the model computes them or what follows without any",
    )


def _reached(nodes: Sequence[fx.Node], modes: Mapping[fx.Node, bool]) -> dict[fx.Node, bool]:
    """For each node, whether a gradient comes back to it from an output."""
    reached: dict[fx.Node, bool] = {}
    for node in reversed(nodes):
        reached[node] = node.op == "output" or any(
            reached[u] and (u.op == "output" or (modes[u] and _passes(u))) for u in node.users
        )
    return reached


def _passes(user: fx.Node) -> bool:
    return canonical_name(user) not in _CUTS and kind_of(user) is not Kind.METADATA
