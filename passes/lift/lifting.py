"""Apply an operator to all streams at once: which operators allow it, and how the call changes.

Streams carry one more axis, in front. Pointwise ops, casts and norms over trailing axes need no change, ops that want
the batch in front see streams folded into it, random ones draw once for all, and the rules of those that name axes or
sizes are in `rules.py`. What kind an operator is stands in `op_kinds.py`: that is where a new one begins.
"""

from __future__ import annotations

from collections.abc import Collection

from torch import fx

from mhc_compile.passes.graph.ancestry import Ancestry
from mhc_compile.passes.graph.op_kinds import LIFTABLE, LINEAR, Kind, canonical_name, kind_of
from mhc_compile.passes.graph.values import flat_nodes, rank_of
from mhc_compile.passes.lift.random_operators import can_draw_once, draw_once, draws
from mhc_compile.passes.lift.rules import RULES, Streams, can_count_on

_RULED = frozenset({Kind.SHAPE, Kind.SELECT, Kind.ARRANGE, Kind.REDUCE, Kind.ALONG})
"""Kinds of which only what has a rule is lifted."""

_QUOTIENTS = frozenset({"div", "divide", "true_divide", "truediv"})
_CHOICES = frozenset({"where", "masked_fill", "cumsum"})  # not linear by kind, but in each value they let through


def can_lift(graph: Ancestry, i: int, on_stream: Collection[int]) -> bool:
    """Whether node `i` can be applied to every stream, given which of its operands are streams."""
    node, kind = graph.nodes[i], graph.kinds[i]
    if kind not in LIFTABLE:
        return False
    rank = rank_of(node)
    stream_ranks = {rank_of(graph.nodes[j]) for j in graph.inputs[i] if j in on_stream}
    if rank is None or None in stream_ranks:
        return kind not in _RULED and kind is not Kind.FOLDED and len(node.all_input_nodes) == 1
    if kind in _RULED:
        return canonical_name(node) in RULES and node.op != "call_module" and can_count_on(node)
    if draws(node) and not can_draw_once(node):
        return False
    sides = [rank_of(n) for n in node.all_input_nodes if graph.index[n] not in on_stream]
    return stream_ranks == {rank} and all(side is None or side <= rank for side in sides)


def is_linear(graph: Ancestry, i: int, on_stream: Collection[int]) -> bool:
    """Whether node `i` is linear (or affine) in the streams, so that streams may differ from one another."""
    node, kind = graph.nodes[i], graph.kinds[i]
    operands = [j for j in flat_nodes(node.args) if graph.index[j] in on_stream]
    if len(operands) != 1:
        return False
    if kind is Kind.SCALE and canonical_name(node) in _QUOTIENTS:
        return node.args[0] is operands[0]
    return kind in LINEAR or kind in (Kind.ADD, Kind.SUB, Kind.ARRANGE) or canonical_name(node) in _CHOICES


def lift(node: fx.Node, streams: Streams) -> fx.Node:
    """Emit the call that does to `[n, *shape]` what `node` does to `[*shape]`, at the graph's insertion point."""
    kind = kind_of(node)
    if draws(node):
        return draw_once(node, streams)
    if kind is Kind.FOLDED:
        return _folded(node, streams)
    if kind in _RULED:
        return RULES[canonical_name(node)](node, streams)
    args = fx.map_arg(node.args, lambda n: streams.get(n, n))
    kwargs = fx.map_arg({k: v for k, v in node.kwargs.items() if k != "memory_format"}, lambda n: streams.get(n, n))
    return node.graph.create_node(node.op, node.target, args, kwargs)


def _folded(node: fx.Node, streams: Streams) -> fx.Node:
    """Streams become part of the batch and come back: for ops that treat every sample alone, batch axis first."""
    graph = node.graph
    folded = {v: graph.call_method("flatten", (x, 0, 1)) for v, x in streams.items() if v in node.all_input_nodes}
    args, kwargs = fx.map_arg((node.args, node.kwargs), lambda n: folded.get(n, n))
    result = graph.create_node(node.op, node.target, args, kwargs)
    source = next(iter(folded))
    n = graph.call_method("size", (streams[source], 0))
    return graph.call_method("unflatten", (result, 0, (n, -1)))
