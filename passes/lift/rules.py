"""How an operator that names axes or sizes is applied to streams, which carry one more axis in front.

Axes count one further, views keep the stream axis, indices leave it alone. An operator comes here once `op_kinds.py`
has a kind for it.
"""

from __future__ import annotations

import operator
from collections.abc import Callable, Mapping
from typing import Any

import torch
from torch import fx

from mhc_compile.passes.graph.op_kinds import canonical_name
from mhc_compile.passes.graph.values import rank_of, tensor_of, value_of

Streams = Mapping[fx.Node, fx.Node]
"""The operands of an op that are streams, each with its streamed twin."""

Rule = Callable[[fx.Node, Streams], fx.Node]

_AXIS_NAMES = ("dim", "dims", "axis", "axes")


def can_count_on(node: fx.Node) -> bool:
    """Whether the arguments of a call that has a rule say which axes it works on, and leave the streams apart."""
    name = canonical_name(node)
    if name == "getitem":
        return tensor_of(operand_of(node)) is not None and _keeps_order(node.args[1])
    if name == "pad":
        return str(node.kwargs.get("mode", node.args[2] if len(node.args) > 2 else "constant")) == "constant"
    if name in ("cat", "concat", "concatenate"):
        return not isinstance(node.args[0] if node.args else node.kwargs["tensors"], fx.Node)
    if name in ("slice_scatter", "select_scatter"):
        return not node.kwargs and len(node.args) > 2
    if name == "squeeze":
        return bool(_rest(node))
    return name not in _AXIS_AT or _names_axes(_axes(node))


def _names_axes(axes: Any) -> bool:
    """Whether these are axes, rather than none at all, a flag in their place, or a value only known later."""
    axes = axes if isinstance(axes, (tuple, list)) else (axes,)
    return bool(axes) and all(type(axis) is int for axis in axes)


def operand_of(node: fx.Node) -> fx.Node:
    """The tensor that an op works on."""
    first = node.args[0] if node.args else node.kwargs["input"]
    assert isinstance(first, fx.Node)
    return first


def _source(node: fx.Node, streams: Streams) -> fx.Node:
    return streams[operand_of(node)]


def _rest(node: fx.Node) -> tuple[Any, ...]:
    """Arguments after the tensor, with a single list or tuple spread out: `view(x, (a, b))` is `view(x, a, b)`."""
    rest = tuple(node.args[1:]) + tuple(v for k, v in node.kwargs.items() if k not in ("input", "memory_format"))
    return tuple(rest[0]) if len(rest) == 1 and isinstance(rest[0], (tuple, list)) else rest


def _shift(axis: Any) -> Any:
    """The same axis, or axes, when one more lies in front; those counted from the end stay."""
    if isinstance(axis, (tuple, list)):
        return [_shift(a) for a in axis]
    return axis + 1 if axis >= 0 else axis


# --- views ---------------------------------------------------------------------------------------------------------


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


def _named_axes(method: str) -> Rule:
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


def _reverse_axes(node: fx.Node, streams: Streams) -> fx.Node:
    rank = rank_of(node) or 0
    return node.graph.call_method("permute", (_source(node, streams), 0, *range(rank, 0, -1)))


def _move_axes(node: fx.Node, streams: Streams) -> fx.Node:
    both = (*node.args[1:], *(node.kwargs[k] for k in ("source", "destination") if k in node.kwargs))
    return node.graph.call_method("movedim", (_source(node, streams), *map(_shift, both)))


# --- parts and arrangements --------------------------------------------------------------------------------------


def _keeps_order(index: Any) -> bool:
    """Whether an index leaves the axes in order: numbers, slices, at most one list of positions, and no mask."""
    index = index if isinstance(index, tuple) else (index,)
    lists = [part for part in index if isinstance(part, (fx.Node, list)) and not _is_number(part)]
    return len(lists) <= 1 and not any(isinstance(part, bool) or _is_mask(part) for part in index)


def _is_number(part: Any) -> bool:
    return isinstance(part, fx.Node) and isinstance(value_of(part), (int, torch.SymInt))


def _is_mask(part: Any) -> bool:
    tensor = tensor_of(part) if isinstance(part, fx.Node) else None
    return isinstance(part, fx.Node) and not _is_number(part) and (tensor is None or tensor.is_floating_point()
                                                                   or tensor.dtype is torch.bool)  # fmt: skip


def _index(node: fx.Node, streams: Streams) -> fx.Node:
    index: Any = node.args[1] if isinstance(node.args[1], tuple) else (node.args[1],)
    return node.graph.call_function(operator.getitem, (_source(node, streams), (slice(None), *index)))


def _concatenate(node: fx.Node, streams: Streams) -> fx.Node:
    """What is no stream is put to each of them."""
    parts: Any = node.args[0] if node.args else node.kwargs["tensors"]
    axis = node.args[1] if len(node.args) > 1 else node.kwargs.get("dim", node.kwargs.get("axis", 0))
    return node.graph.call_function(torch.cat, (_of_every_stream(node, parts, streams), _shift(axis)))


def _place(node: fx.Node, streams: Streams) -> fx.Node:
    """Either may be no stream: what is placed, or what it is placed in."""
    tensors, (axis, *rest) = _of_every_stream(node, node.args[:2], streams), node.args[2:]
    return node.graph.create_node(node.op, node.target, (*tensors, _shift(axis), *rest))


def _of_every_stream(node: fx.Node, parts: Any, streams: Streams) -> list[fx.Node]:
    n = node.graph.call_method("size", (next(s for v, s in streams.items() if v in node.all_input_nodes), 0))
    sizes: dict[fx.Node, list[Any]] = {part: [n, *[-1] * (rank_of(part) or 0)] for part in parts}
    return [streams.get(part) or node.graph.call_method("expand", (part, *sizes[part])) for part in parts]


def _unchanged(node: fx.Node, streams: Streams) -> fx.Node:
    """`pad` counts its axes from the last one."""
    args, kwargs = fx.map_arg((node.args, node.kwargs), lambda n: streams.get(n, n))
    return node.graph.create_node(node.op, node.target, args, kwargs)


# --- along an axis -----------------------------------------------------------------------------------------------

_AXIS_AT = {
    **dict.fromkeys(("mean", "sum", "amax", "amin", "var", "std", "logsumexp", "softmax", "log_softmax", "cumsum"), 1),
    **dict.fromkeys(("flip", "narrow", "select", "slice", "index_select"), 1),
    **dict.fromkeys(("norm", "linalg_vector_norm", "vector_norm", "normalize", "roll"), 2),
}
"""Operators that name the axes they work along, and where among their arguments: such a one needs no other rule."""

_DEFAULT_AXIS = {"normalize": 1, "slice": 0}


def _axis_name(node: fx.Node) -> str | None:
    return next((name for name in _AXIS_NAMES if name in node.kwargs), None)


def _axes(node: fx.Node) -> Any:
    name, keyword, position = canonical_name(node), _axis_name(node), _AXIS_AT[canonical_name(node)]
    if keyword is not None:
        return node.kwargs[keyword]
    if name == "flip" and node.op == "call_method" and not isinstance(node.args[1], (tuple, list)):
        return node.args[1:]
    return node.args[position] if len(node.args) > position else _DEFAULT_AXIS.get(name)


def _along(node: fx.Node, streams: Streams) -> fx.Node:
    axes, keyword, position = _shift(_axes(node)), _axis_name(node), _AXIS_AT[canonical_name(node)]
    args, kwargs = fx.map_arg((node.args, dict(node.kwargs)), lambda n: streams.get(n, n))
    if keyword is not None or len(args) <= position:
        return node.graph.create_node(node.op, node.target, args, {**kwargs, keyword or "dim": axes})
    rest = () if isinstance(_axes(node), tuple) and _axes(node) == node.args[position:] else args[position + 1 :]
    return node.graph.create_node(node.op, node.target, (*args[:position], axes, *rest), kwargs)


RULES: dict[str, Rule] = {
    **dict.fromkeys(("view", "reshape", "_unsafe_view"), _view),
    **dict.fromkeys(("view_as", "reshape_as"), _view_as),
    **dict.fromkeys(("transpose", "swapaxes", "swapdims"), _named_axes("transpose")),
    **dict.fromkeys(("movedim", "moveaxis"), _move_axes),
    **dict.fromkeys(("t", "mT", "matrix_H", "mH", "adjoint"), _transpose_last),
    "numpy_T": _reverse_axes,
    "permute": _permute,
    "flatten": _flatten,
    "unflatten": _unflatten,
    "unsqueeze": _unsqueeze,
    "squeeze": _named_axes("squeeze"),
    "getitem": _index,
    **dict.fromkeys(("cat", "concat", "concatenate"), _concatenate),
    **dict.fromkeys(("slice_scatter", "select_scatter"), _place),
    "pad": _unchanged,
    **dict.fromkeys(_AXIS_AT, _along),
}
"""By canonical name. Of views, cuts and reductions, what has no rule is not lifted; other kinds need none."""
