"""Apply an operator to all streams at once: which operators allow it, and how the call changes.

Streams carry one more axis, in front. Pointwise ops, casts and norms over trailing axes need no change, ops that name
axes count one further, views keep the stream axis, and ops that want the batch in front see streams folded into it.
"""

from __future__ import annotations

import operator
from collections.abc import Callable, Collection, Mapping
from typing import Any

import torch
from torch import fx

from mhc_compile.passes.ancestry import Ancestry
from mhc_compile.passes.op_kinds import LIFTABLE, LINEAR, Kind, canonical_name, kind_of
from mhc_compile.passes.values import flat_nodes, rank_of, value_of

Streams = Mapping[fx.Node, fx.Node]


def can_lift(graph: Ancestry, i: int, on_stream: Collection[int]) -> bool:
    """Whether node `i` can be applied to every stream, given which of its operands are streams."""
    node, kind = graph.nodes[i], graph.kinds[i]
    if kind not in LIFTABLE:
        return False
    rank = rank_of(node)
    stream_ranks = {rank_of(graph.nodes[j]) for j in graph.inputs[i] if j in on_stream}
    if rank is None or None in stream_ranks:
        return kind not in (Kind.SHAPE, Kind.REDUCE, Kind.FOLDED) and len(node.all_input_nodes) == 1
    if kind is Kind.SHAPE:
        return canonical_name(node) in _SHAPE_RULES and node.op != "call_module"
    if kind is Kind.REDUCE:
        return _keeps_axes(node)
    sides = [rank_of(n) for n in node.all_input_nodes if graph.index[n] not in on_stream]
    return stream_ranks == {rank} and all(side is None or side <= rank for side in sides)


def is_linear(graph: Ancestry, i: int, on_stream: Collection[int]) -> bool:
    """Whether node `i` is linear (or affine) in the streams, so that streams may differ from one another."""
    node, kind = graph.nodes[i], graph.kinds[i]
    operands = [j for j in flat_nodes(node.args) if graph.index[j] in on_stream]
    if len(operands) != 1:
        return False
    if canonical_name(node) in ("div", "divide", "true_divide", "truediv"):
        return node.args[0] is operands[0]
    return kind in LINEAR or kind in (Kind.ADD, Kind.SUB)


def lift(node: fx.Node, streams: Streams) -> fx.Node:
    """Emit the call that does to `[n, *shape]` what `node` does to `[*shape]`, at the graph's insertion point."""
    kind = kind_of(node)
    if kind is Kind.FOLDED:
        return _folded(node, streams)
    if kind is Kind.SHAPE:
        return _SHAPE_RULES[canonical_name(node)](node, streams)
    args = fx.map_arg(node.args, lambda n: streams.get(n, n))
    kwargs = fx.map_arg({k: v for k, v in node.kwargs.items() if k != "memory_format"}, lambda n: streams.get(n, n))
    if kind is Kind.REDUCE:
        args, kwargs = _shift_reduction(node, args, kwargs)
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


def _keeps_axes(node: fx.Node) -> bool:
    keepdim = node.kwargs.get("keepdim", node.args[2] if len(node.args) > 2 else False)
    return keepdim is True and _axes(node) is not None and canonical_name(node) in ("mean", "sum", "amax", "amin")


def _axes(node: fx.Node) -> Any:
    return node.kwargs.get("dim", node.args[1] if len(node.args) > 1 else None)


def _shift_reduction(node: fx.Node, args: Any, kwargs: Any) -> tuple[Any, Any]:
    axes = _axes(node)
    shifted = [_shift(a) for a in axes] if isinstance(axes, (tuple, list)) else _shift(axes)
    if "dim" in kwargs:
        return args, {**kwargs, "dim": shifted}
    return (args[0], shifted, *args[2:]), kwargs


def _shift(axis: Any) -> Any:
    """The same axis when one more lies in front; axes counted from the end stay."""
    return axis + 1 if axis >= 0 else axis


# --- ops that name axes or sizes ---------------------------------------------------------------------------------


def _source(node: fx.Node, streams: Streams) -> fx.Node:
    first = node.args[0] if node.args else node.kwargs["input"]
    assert isinstance(first, fx.Node)
    return streams[first]


def _rest(node: fx.Node) -> tuple[Any, ...]:
    """Arguments after the tensor, with a single list or tuple spread out: `view(x, (a, b))` is `view(x, a, b)`."""
    rest = tuple(node.args[1:]) + tuple(v for k, v in node.kwargs.items() if k not in ("input", "memory_format"))
    return tuple(rest[0]) if len(rest) == 1 and isinstance(rest[0], (tuple, list)) else rest


def _view(node: fx.Node, streams: Streams) -> fx.Node:
    source = _source(node, streams)
    n = node.graph.call_method("size", (source, 0))
    rest = _rest(node)
    if len(rest) == 1 and _is_size(rest[0]):
        return node.graph.call_method("reshape", (source, node.graph.call_function(operator.add, ((n,), rest[0]))))
    return node.graph.call_method("reshape", (source, (n, *rest)))


def _is_size(argument: Any) -> bool:
    """Whether the argument is a whole `torch.Size`, as in `x.view(y.size())`."""
    return isinstance(argument, fx.Node) and isinstance(value_of(argument), (torch.Size, tuple, list))


def _view_as(node: fx.Node, streams: Streams) -> fx.Node:
    source, other = _source(node, streams), node.args[1]
    assert isinstance(other, fx.Node)
    template = streams.get(other)
    if template is not None:
        return node.graph.call_method("reshape_as", (source, template))
    n = node.graph.call_method("size", (source, 0))
    sizes = [node.graph.call_method("size", (other, i)) for i in range(rank_of(other) or 0)]
    return node.graph.call_method("reshape", (source, (n, *sizes)))


def _named_axes(method: str) -> Callable[[fx.Node, Streams], fx.Node]:
    """All remaining arguments are axes."""

    def rule(node: fx.Node, streams: Streams) -> fx.Node:
        return node.graph.call_method(method, (_source(node, streams), *map(_shift, _rest(node))))

    return rule


def _permute(node: fx.Node, streams: Streams) -> fx.Node:
    rank = len(_rest(node))
    axes = [a % rank + 1 for a in _rest(node)]
    return node.graph.call_method("permute", (_source(node, streams), 0, *axes))


def _flatten(node: fx.Node, streams: Streams) -> fx.Node:
    start = node.kwargs.get("start_dim", node.args[1] if len(node.args) > 1 else 0)
    end = node.kwargs.get("end_dim", node.args[2] if len(node.args) > 2 else -1)
    return node.graph.call_method("flatten", (_source(node, streams), _shift(start), _shift(end)))


def _unflatten(node: fx.Node, streams: Streams) -> fx.Node:
    axis, *sizes = tuple(node.args[1:]) + tuple(node.kwargs[k] for k in ("dim", "sizes") if k in node.kwargs)
    return node.graph.call_method("unflatten", (_source(node, streams), _shift(axis), *sizes))


def _unsqueeze(node: fx.Node, streams: Streams) -> fx.Node:
    return node.graph.call_method("unsqueeze", (_source(node, streams), _shift(_rest(node)[0])))


def _transpose_last(node: fx.Node, streams: Streams) -> fx.Node:
    return node.graph.call_method("transpose", (_source(node, streams), -2, -1))


def _move_axes(node: fx.Node, streams: Streams) -> fx.Node:
    both = (*node.args[1:], *(node.kwargs[k] for k in ("source", "destination") if k in node.kwargs))
    moved = [[_shift(a) for a in axes] if isinstance(axes, (tuple, list)) else _shift(axes) for axes in both]
    return node.graph.call_method("movedim", (_source(node, streams), *moved))


_SHAPE_RULES: dict[str, Callable[[fx.Node, Streams], fx.Node]] = {
    **dict.fromkeys(("view", "reshape", "_unsafe_view"), _view),
    **dict.fromkeys(("view_as", "reshape_as"), _view_as),
    **dict.fromkeys(("transpose", "swapaxes", "swapdims"), _named_axes("transpose")),
    **dict.fromkeys(("movedim", "moveaxis"), _move_axes),
    **dict.fromkeys(("t", "mT"), _transpose_last),
    "permute": _permute,
    "flatten": _flatten,
    "unflatten": _unflatten,
    "unsqueeze": _unsqueeze,
    "squeeze": _named_axes("squeeze"),
}
