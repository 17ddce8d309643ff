"""Where the axes of one value are in what is computed from it, operator by operator."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

from torch import fx

from mhc_compile.passes.graph.ancestry import Ancestry
from mhc_compile.passes.graph.contractions import terms_of
from mhc_compile.passes.graph.op_kinds import Kind, canonical_name
from mhc_compile.passes.graph.values import flat_nodes, rank_of, shape_of, tensor_of, value_of

Axis = int | str | None
"""An axis of the value that was followed, the name of the operator with a weight that made it, or None."""

Axes = tuple[Axis, ...]
"""For each axis of a value, what is known of it."""

LINEAR_MAPS = frozenset({"linear", "Linear"})
CONVOLUTIONS = {
    name: rank
    for rank in (1, 2, 3)
    for name in (f"conv{rank}d", f"Conv{rank}d", f"conv_transpose{rank}d", f"ConvTranspose{rank}d")
}
"""Convolutions by name, with the number of axes behind the channels."""

PRODUCTS = {"matmul": 0, "mm": 0, "bmm": 0, "addmm": 1, "baddbmm": 1, "addbmm": 1}
"""Matrix products, with the position of their left operand."""

RECURRENT = frozenset({"gru", "lstm", "rnn_tanh", "rnn_relu", "GRU", "LSTM", "RNN"})


ADAPTIVE = {f"{name}{rank}d": rank for rank in (1, 2, 3) for name in ("adaptive_avg_pool", "adaptive_max_pool",
                                                                     "AdaptiveAvgPool", "AdaptiveMaxPool")}  # fmt: skip
"""Poolings to a given size by name, with the number of axes behind the channels."""

_OF_WINDOWS = frozenset({"unfold", "fold", "Unfold", "Fold", "im2col", "col2im"})
"""Pictures to the windows in them, side by side, and back: batch and channels stay in front."""


def carry(graph: Ancestry, i: int, known: Mapping[int, Axes]) -> Axes:
    """The axes of node `i`, given those of some of its inputs, at least one."""
    node, name = graph.nodes[i], canonical_name(graph.nodes[i])
    rank = rank_of(node)
    source = next(j for j in graph.inputs[i] if j in known)
    axes = known[source]
    made = name if graph.weights[i] else None
    if name in LINEAR_MAPS or name in RECURRENT:
        return (*axes[:-1], made)
    if name in CONVOLUTIONS:
        channels = len(axes) - 1 - CONVOLUTIONS[name]
        return (*axes[:channels], made, *axes[channels + 1 :])
    if name in PRODUCTS:
        return _of_product(graph, node, known, made)
    if name in ("einsum", "tensordot"):
        return _of_einsum(graph, node, known, made)
    if graph.kinds[i] is Kind.SHAPE:
        return _of_view(node, graph.nodes[source], axes)
    if name == "getitem":
        return _of_index(node, axes)
    if graph.kinds[i] is Kind.REDUCE or name == "select":
        return _of_reduction(node, axes)
    if rank is None:
        return axes  # several values at once (chunk, split): each has the axes of their source
    if name in _OF_WINDOWS:
        return (*axes[:2], *(None,) * (rank - 2))
    if name in ADAPTIVE:
        return _of_pooling(graph.nodes[i], axes)
    if graph.kinds[i] is Kind.OPAQUE and rank != len(axes):
        return (None,) * rank
    return _broadcast([known[j] for j in graph.inputs[i] if j in known], rank)


def reduced_axes(node: fx.Node) -> tuple[int, ...] | None:
    """The axes a reduction runs over, counted from the front; None if it does not say, or over all of them."""
    at = 2 if canonical_name(node) in ("norm", "linalg_vector_norm", "vector_norm") else 1
    names = [node.kwargs[k] for k in ("dim", "axis") if k in node.kwargs]
    axes = names[0] if names else (node.args[at] if len(node.args) > at else None)
    axes = axes if isinstance(axes, (tuple, list)) else (axes,)
    rank = rank_of(node.all_input_nodes[0])
    if rank is None or not axes or not all(type(a) is int for a in axes):
        return None
    return tuple(a % rank for a in axes)


def keeps_axes(node: fx.Node) -> bool:
    """Whether a reduction leaves an axis of size 1 where it ran."""
    return rank_of(node) == rank_of(node.all_input_nodes[0])


def permutation(node: fx.Node, rank: int) -> list[int] | None:
    """For each axis of the result, the axis of the operand; None for an op that does not only reorder axes."""
    name, order = canonical_name(node), list(range(rank))
    rest: list[Any] = [*node.args[1:], *(v for k, v in node.kwargs.items() if k != "input")]
    if name in ("transpose", "swapaxes", "swapdims", "t", "mT", "matrix_H", "mH", "adjoint"):
        first, second = (int(a) % rank for a in (rest if len(rest) == 2 else (-2, -1)))
        order[first], order[second] = second, first
        return order
    if name == "numpy_T":
        return order[::-1]
    if name == "permute":
        return [int(a) % rank for a in (rest[0] if isinstance(rest[0], (tuple, list)) else rest)]
    if name in ("movedim", "moveaxis"):
        moved = [[int(a) % rank for a in (axes if isinstance(axes, (tuple, list)) else (axes,))] for axes in rest]
        others = iter(a for a in order if a not in moved[0])
        places = dict(zip(moved[1], moved[0], strict=True))
        return [places[a] if a in places else next(others) for a in order]
    return None


def through_view(before: Sequence[object], after: Sequence[object], axes: Axes) -> Axes:
    """A view keeps the axes it leaves alone at either end."""
    result: list[Axis] = [None] * len(after)
    for i in range(min(len(before), len(after))):
        if before[i] != after[i]:
            break
        result[i] = axes[i]
    for i in range(1, min(len(before), len(after)) + 1):
        if before[-i] != after[-i]:
            break
        result[-i] = axes[-i]
    return tuple(result)


def _of_view(node: fx.Node, source: fx.Node, axes: Axes) -> Axes:
    order = permutation(node, len(axes))
    if order is not None:
        return tuple(axes[a] for a in order)
    before, after = shape_of(source), shape_of(node)
    return through_view(before, after, axes) if before and after else axes


def _of_index(node: fx.Node, axes: Axes) -> Axes:
    source, index = node.args[0], node.args[1]
    rank = rank_of(node)
    if not isinstance(source, fx.Node) or tensor_of(source) is None:  # one of several values
        return axes if rank in (None, len(axes)) else (None,) * rank
    parts = list(index) if isinstance(index, tuple) else [index]
    taken = sum(part is not None and part is not Ellipsis for part in parts)
    if Ellipsis not in parts:
        parts.append(Ellipsis)
    at = parts.index(Ellipsis)
    parts[at : at + 1] = [slice(None)] * (len(axes) - taken)
    found: list[Axis] = []
    rest = iter(axes)
    for part in parts:
        axis = None if part is None else next(rest, None)
        if not isinstance(part, int) and not _is_number(part):
            found.append(axis)
    return tuple(found) if len(found) == rank else (None,) * (rank or 0)


def _is_number(part: Any) -> bool:
    return isinstance(part, fx.Node) and tensor_of(part) is None and value_of(part) is not None


def _of_reduction(node: fx.Node, axes: Axes) -> Axes:
    gone = reduced_axes(node)
    if gone is None or len(gone) > len(axes):
        return (None,) * (rank_of(node) or 0)
    if keeps_axes(node):
        return tuple(None if i in gone else axis for i, axis in enumerate(axes))
    return tuple(axis for i, axis in enumerate(axes) if i not in gone)


def _of_pooling(node: fx.Node, axes: Axes) -> Axes:
    """What is pooled to a single position has lost its axis."""
    sizes, first = shape_of(node), len(axes) - ADAPTIVE[canonical_name(node)]
    return tuple(None if k >= first and sizes[k] == 1 else axis for k, axis in enumerate(axes))


def _of_product(graph: Ancestry, node: fx.Node, known: Mapping[int, Axes], made: str | None) -> Axes:
    """Rows come from the left operand, columns from the right one; those of a weight are made here."""
    start = PRODUCTS[canonical_name(node)]
    operands = flat_nodes(tuple(node.args[start : start + 2]))
    rank = rank_of(node) or 0
    if len(operands) != 2 or rank < 2:
        return (made,) * rank
    left, right = (known.get(graph.index[n]) for n in operands)
    batch = _broadcast([a[:-2] for a in (left, right) if a is not None and len(a) > 2], rank - 2)
    row = left[-2] if left is not None and len(left) > 1 else made
    column = right[-1] if right is not None else made
    return (*batch, row, column)


def _of_einsum(graph: Ancestry, node: fx.Node, known: Mapping[int, Axes], made: str | None) -> Axes:
    terms = terms_of(node)
    rank = rank_of(node) or 0
    if terms is None:
        return (None,) * rank
    letters, result, operands = terms
    found: dict[str, Axis] = {}
    for term, operand in zip(letters, operands, strict=False):
        axes = known.get(graph.index[operand]) if isinstance(operand, fx.Node) else None
        if axes is not None and len(axes) == len(term):
            found.update(zip(term, axes, strict=True))
    return tuple(found.get(letter, made) for letter in result)


def _broadcast(shapes: Sequence[Axes], rank: int) -> Axes:
    """Axes aligned at the end, as operands are; the first that knows an axis decides."""
    found: list[Axis] = [None] * rank
    for axes in shapes:
        if len(axes) > rank:
            continue
        for i in range(1, len(axes) + 1):
            found[-i] = axes[-i] if found[-i] is None else found[-i]
    return tuple(found)
