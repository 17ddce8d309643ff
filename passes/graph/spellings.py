"""Every operator that adds, spelled out as products and sums of two terms, so that detection sees one kind of add.

Nothing but the spelling changes: the values are those of the operator, to rounding. What adds along an axis of one
tensor has no two terms; such operators are listed in `sums.py`.
"""

from __future__ import annotations

import operator
from collections.abc import Callable, Sequence
from functools import partial
from typing import Any

import torch
from torch import fx

from mhc_compile.passes.graph.op_kinds import Kind, canonical_name, is_inplace, kind_of
from mhc_compile.passes.graph.stacks import contract_stack, sum_over_stack
from mhc_compile.passes.graph.values import dtype_of, rank_of, same_shape, tensor_of, value_of
from mhc_compile.passes.graph.wording import arguments, become, emit, is_float, product


def spell_out(node: fx.Node) -> None:
    """`add(x, y, alpha=a)` becomes `x + a * y`, `lerp(x, y, w)` becomes `x + w * (y - x)`, and so on."""
    if node.op in ("call_function", "call_method"):
        rule = _SPELLINGS.get(canonical_name(node))
        if rule is not None:
            rule(node)


def spell_out_lists(gm: fx.GraphModule) -> None:
    """`_foreach_add([x, y], [a, b])` becomes `x + a` and `y + b`, and that which writes `x += a` and `y += b`."""
    for node in list(gm.graph.nodes):
        combine = _OF_LISTS.get((canonical_name(node), is_inplace(node))) if node.op == "call_function" else None
        left, right = arguments(node, "self", "other")
        if combine and isinstance(left, (tuple, list)) and isinstance(right, (tuple, list)):
            _each(node, combine, left, right)


def _each(node: fx.Node, combine: Callable[..., Any], left: Sequence[Any], right: Sequence[Any]) -> None:
    factor = node.kwargs.get("alpha", node.args[2] if len(node.args) > 2 else 1)
    pairs = zip(left, right, strict=True)
    sums = [emit(node, combine, x, y if factor == 1 else product(node, y, factor), like=x) for x, y in pairs]
    for user in list(node.users):
        if canonical_name(user) == "getitem" and isinstance(user.args[1], int):
            user.replace_all_uses_with(sums[user.args[1]])
            node.graph.erase_node(user)
    if node.users:
        node.replace_all_uses_with(emit(node, tuple, sums))
    node.graph.erase_node(node)


_OF_LISTS: dict[tuple[str, bool], Callable[..., Any]] = {
    ("_foreach_add", False): operator.add, ("_foreach_add", True): operator.iadd,
    ("_foreach_sub", False): operator.sub, ("_foreach_sub", True): operator.isub,
}  # fmt: skip


def can_place(node: fx.Node) -> bool:
    """Whether `y[index] = value` says without a look at the values which of them are replaced by which."""
    y, index, value = node.args
    if not isinstance(y, fx.Node) or tensor_of(y) is None or dtype_of(y) == torch.bool:
        return False
    if isinstance(value, fx.Node) and (tensor_of(value) is None or dtype_of(value) != dtype_of(y)):
        return False
    rank = (rank_of(value) or 0) if isinstance(value, fx.Node) else 0
    if isinstance(index, fx.Node):
        return (
            dtype_of(index) == torch.bool and rank + (rank_of(index) or 0) <= (rank_of(y) or 0) and rank_of(index) != 0
        )
    parts = _parts_of(index, rank_of(y) or 0)
    return any(part != slice(None) for part in parts) and rank <= sum(isinstance(part, slice) for part in parts)


def place(node: fx.Node) -> None:
    """`y[mask] = value` becomes `where(mask, value, y)`, `y[:, 0] = value` a `select_scatter`, and so on."""
    y, index, value = node.args
    assert isinstance(y, fx.Node)
    node.meta = {**_without_value(node.meta), "val": torch.empty_like(value_of(y))}
    if not isinstance(index, fx.Node):
        return become(node, *_placed(node, y, _parts_of(index, rank_of(y) or 0), value, 0))
    behind = (rank_of(y) or 0) - (rank_of(index) or 0)
    mask = _made(node, operator.getitem, index, (..., *[None] * behind)) if behind else index
    if isinstance(value, fx.Node):
        return become(node, torch.where, mask, value, y)
    return become(node, torch.masked_fill, y, mask, value)


def _parts_of(index: Any, rank: int) -> list[Any]:
    """One number or slice for each axis; empty where there is anything else."""
    parts = [*index] if isinstance(index, tuple) else [index]
    at = next((i for i, part in enumerate(parts) if part is Ellipsis), len(parts))
    parts[at : at + 1] = [slice(None)] * (rank - len(parts) + (at < len(parts)))
    bounds = [b for p in parts for b in ((p.start, p.stop, p.step) if isinstance(p, slice) else (p,))]
    numbers = (
        type(b) is int or (isinstance(b, fx.Node) and isinstance(value_of(b), (int, torch.SymInt))) for b in bounds
    )
    fits = all(type(p) is int or isinstance(p, (slice, fx.Node)) for p in parts)
    return parts if fits and all(b is None or ok for b, ok in zip(bounds, numbers, strict=True)) else []


def _placed(node: fx.Node, y: fx.Node, parts: list[Any], value: Any, axis: int) -> tuple[Any, ...]:
    """The call that replaces what the parts from this axis on pick."""
    while parts[axis] == slice(None):
        axis += 1
    part, behind = parts[axis], axis + isinstance(parts[axis], slice)
    inner = _made(node, operator.getitem, y, (*[slice(None)] * axis, part))
    rest = [*parts[:axis], *[slice(None)] * (behind - axis), *parts[axis + 1 :]]
    if any(p != slice(None) for p in rest[behind:]):
        new = _made(node, *_placed(node, inner, rest, value, behind))
    elif isinstance(value, fx.Node):
        new = value if same_shape(value, inner) else _made(node, torch.Tensor.expand_as, value, inner)
    else:
        new = _made(node, torch.full_like, inner, value)
    if isinstance(part, slice):
        return torch.slice_scatter, y, new, axis, part.start, part.stop, part.step or 1
    return torch.select_scatter, y, new, axis, part


def _made(node: fx.Node, target: Callable[..., Any], *args: Any) -> fx.Node:
    """A call in front of `node`, with its own example."""
    made = emit(node, target, *args)
    made.meta = {**_without_value(made.meta), "val": target(*fx.map_arg(args, value_of))}
    return made


def _without_value(meta: dict[str, Any]) -> dict[str, Any]:
    return {k: v for k, v in meta.items() if k not in ("val", "example_value")}


def _scaled(node: fx.Node, factor: Any, term: fx.Node) -> fx.Node:
    return term if factor is None or factor == 1 else product(node, factor, term)


def _with_factor(node: fx.Node, combine: Callable[..., Any]) -> None:
    left, right = arguments(node, "input", "other")
    if node.kwargs.get("alpha", 1) != 1 and isinstance(right, fx.Node):
        become(node, combine, left, product(node, right, node.kwargs["alpha"]))


def _difference(node: fx.Node) -> None:
    """`y - (-x)` is `x + y`: a skip that is negated twice is none that is subtracted."""
    _with_factor(node, operator.sub)
    left, right = arguments(node, "input", "other")
    if not isinstance(right, fx.Node) or canonical_name(right) not in ("neg", "negative") or is_inplace(right):
        return
    if len(right.users) == 1 and dtype_of(right) == dtype_of(node):
        become(node, operator.add, left, right.all_input_nodes[0])
        node.graph.erase_node(right)


def _reversed(node: fx.Node) -> None:
    if len(node.args) == 2 and not node.kwargs.get("alpha"):
        become(node, operator.sub, node.args[1], node.args[0])


def _fused(node: fx.Node, combine: Callable[..., Any]) -> None:
    """`addcmul` and `addcdiv`."""
    x, left, right, value = arguments(node, "input", "tensor1", "tensor2", "value")
    if right is not None and len(node.args) < 4:
        become(node, operator.add, x, _scaled(node, value, product(node, left, right, combine)))


def _is_computed_from(node: fx.Node, source: fx.Node) -> bool:
    seen, todo = {node}, [node]
    while todo:
        new = {*todo.pop().all_input_nodes} - seen
        seen |= new
        todo += new
    return source in seen


def _interpolation(node: fx.Node) -> None:
    """`lerp(f(x), x, w)` is `x + (1 - w) * (f(x) - x)`: where the end is the skip, it comes first."""
    x, end, weight = arguments(node, "input", "end", "weight")
    if x is None or end is None or weight is None:
        return
    if isinstance(x, fx.Node) and isinstance(end, fx.Node) and _is_computed_from(x, end):
        like = weight if isinstance(weight, fx.Node) else None
        rest = emit(node, operator.sub, 1, weight, like=like) if like else 1 - weight
        become(node, operator.add, end, product(node, rest, emit(node, operator.sub, x, end)))
    else:
        become(node, operator.add, x, product(node, weight, emit(node, operator.sub, end, x)))


def _with_product(node: fx.Node) -> None:
    """`addmm`, `baddbmm` and `addbmm`, unless what they add is a bias."""
    x, left, right = arguments(node, "input", "batch1" if "b" in canonical_name(node) else "mat1", "mat2")
    right = node.kwargs.get("batch2", right)
    if not (right is not None and _is_stream_sized(node, x)):
        return
    product = emit(node, operator.matmul, left, right)
    beta, alpha = node.kwargs.get("beta", 1), node.kwargs.get("alpha", 1)
    become(node, operator.add, _scaled(node, beta, x), _scaled(node, alpha, product))


def _is_stream_sized(node: fx.Node, x: Any) -> bool:
    """Whether what is added is no bias but as large as the result."""
    known = isinstance(x, fx.Node) and x.op != "get_attr" and tensor_of(x) is not None
    return known and same_shape(x, node)


def _scattered(node: fx.Node) -> None:
    """`x.index_add(...)` becomes `x + zeros.index_add(...)`, unless x is zeros itself."""
    x = node.args[0] if node.args else node.kwargs.get("input")
    if not isinstance(x, fx.Node) or not _accumulates(node) or not is_float(node) or _starts_from_zeros(x):
        return
    zeros = emit(node, torch.zeros_like, x, like=x)
    with node.graph.inserting_before(node):
        added = node.graph.create_node(node.op, node.target, (zeros, *node.args[1:]), dict(node.kwargs))
    added.kwargs = {k: v for k, v in added.kwargs.items() if k != "input"}
    added.meta = dict(node.meta)
    become(node, operator.add, x, added)


def _accumulates(node: fx.Node) -> bool:
    """Whether a write to places adds to what is there."""
    name = canonical_name(node)
    if name == "index_put":
        return node.kwargs.get("accumulate", node.args[3] if len(node.args) > 3 else False) is True
    if name in ("scatter", "scatter_reduce"):
        how = node.kwargs.get("reduce", node.args[4] if len(node.args) > 4 else None)
        return how in ("add", "sum") and node.kwargs.get("include_self", True) is True
    return True


def _starts_from_zeros(x: fx.Node) -> bool:
    """Whether a result is put together from nothing, as by the experts of a mixture: no value is added to."""
    while canonical_name(x) in _SCATTERING or kind_of(x) in (Kind.CAST, Kind.COPY, Kind.SHAPE):
        if not x.all_input_nodes:
            return False
        x = x.all_input_nodes[0]
    return canonical_name(x) in ("zeros", "zeros_like", "new_zeros", "full", "full_like", "new_full")


_SCATTERING = frozenset({"index_add", "scatter_add", "index_put", "scatter", "scatter_reduce"})

_SPELLINGS: dict[str, Callable[[fx.Node], None]] = {
    "add": partial(_with_factor, combine=operator.add),
    **dict.fromkeys(("sub", "subtract"), _difference),
    **dict.fromkeys(("rsub", "rsub_scalar"), _reversed),
    "addcmul": partial(_fused, combine=operator.mul),
    "addcdiv": partial(_fused, combine=operator.truediv),
    "lerp": _interpolation,
    **dict.fromkeys(("addmm", "baddbmm"), _with_product),
    **dict.fromkeys(_SCATTERING, _scattered),
    **dict.fromkeys(("sum", "mean", "nansum"), sum_over_stack),
    **dict.fromkeys(("einsum", "tensordot", "matmul"), contract_stack),
}
