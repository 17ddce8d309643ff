"""Every operator that adds, spelled out as products and sums of two terms, so that detection sees one kind of add.

Nothing but the spelling changes: the values are those of the operator, to rounding. What adds along an axis of one
tensor has no two terms; such operators are listed in `sums.py`.
"""

from __future__ import annotations

import operator
from collections.abc import Callable
from functools import partial
from typing import Any

import torch
from torch import fx

from mhc_compile.passes.graph.op_kinds import Kind, canonical_name, kind_of
from mhc_compile.passes.graph.values import dtype_of, flat_nodes, rank_of, same_shape, tensor_of

_MANY = 16  # terms of a stack that are still added one by one


def spell_out(node: fx.Node) -> None:
    """`add(x, y, alpha=a)` becomes `x + a * y`, `lerp(x, y, w)` becomes `x + w * (y - x)`, and so on."""
    if node.op in ("call_function", "call_method"):
        rule = _SPELLINGS.get(canonical_name(node))
        if rule is not None:
            rule(node)


def _arguments(node: fx.Node, *names: str) -> list[Any]:
    """The arguments called `names`, by position or keyword; None where one is not given."""
    given = dict(zip(names, node.args, strict=False))
    return [given.get(name, node.kwargs.get(name)) for name in names]


def _emit(node: fx.Node, target: Callable[..., Any], *args: Any, like: fx.Node | None = None) -> fx.Node:
    """A call in front of `node`, with the value of `like`, or of `node` itself, as its example."""
    with node.graph.inserting_before(node):
        made = node.graph.call_function(target, args)
    made.meta = {**(like or node).meta, "stack_trace": node.meta.get("stack_trace", "")}
    return made


def _become(node: fx.Node, target: Callable[..., Any], *args: Any) -> None:
    node.op, node.target, node.args, node.kwargs = "call_function", target, args, {}


def _product(node: fx.Node, left: Any, right: Any, target: Callable[..., Any] = operator.mul) -> fx.Node:
    """A product has the broadcast shape of its factors: that of the larger one, which is what detection looks at."""
    factors = [f for f in flat_nodes((left, right)) if tensor_of(f) is not None]
    larger = max(factors, key=lambda f: (same_shape(f, node), rank_of(f) or 0), default=node)
    return _emit(node, target, left, right, like=larger)


def _scaled(node: fx.Node, factor: Any, term: fx.Node) -> fx.Node:
    return term if factor is None or factor == 1 else _product(node, factor, term)


def _with_factor(node: fx.Node, combine: Callable[..., Any]) -> None:
    left, right = _arguments(node, "input", "other")
    if node.kwargs.get("alpha", 1) != 1 and isinstance(right, fx.Node):
        _become(node, combine, left, _product(node, right, node.kwargs["alpha"]))


def _reversed(node: fx.Node) -> None:
    if len(node.args) == 2 and not node.kwargs.get("alpha"):
        _become(node, operator.sub, node.args[1], node.args[0])


def _fused(node: fx.Node, combine: Callable[..., Any]) -> None:
    """`addcmul` and `addcdiv`."""
    x, left, right, value = _arguments(node, "input", "tensor1", "tensor2", "value")
    if right is not None and len(node.args) < 4:
        _become(node, operator.add, x, _scaled(node, value, _product(node, left, right, combine)))


def _interpolation(node: fx.Node) -> None:
    x, end, weight = _arguments(node, "input", "end", "weight")
    if x is not None and end is not None and weight is not None:
        _become(node, operator.add, x, _product(node, weight, _emit(node, operator.sub, end, x)))


def _with_product(node: fx.Node) -> None:
    """`addmm`, `baddbmm` and `addbmm`, unless what they add is a bias."""
    x, left, right = _arguments(node, "input", "batch1" if "b" in canonical_name(node) else "mat1", "mat2")
    right = node.kwargs.get("batch2", right)
    if not (right is not None and _is_stream_sized(node, x)):
        return
    product = _emit(node, operator.matmul, left, right)
    beta, alpha = node.kwargs.get("beta", 1), node.kwargs.get("alpha", 1)
    _become(node, operator.add, _scaled(node, beta, x), _scaled(node, alpha, product))


def _is_stream_sized(node: fx.Node, x: Any) -> bool:
    """Whether what is added is no bias but as large as the result."""
    known = isinstance(x, fx.Node) and x.op != "get_attr" and tensor_of(x) is not None
    return known and same_shape(x, node)


def _scattered(node: fx.Node) -> None:
    """`x.index_add(...)` becomes `x + zeros.index_add(...)`, unless x is zeros itself."""
    x = node.args[0] if node.args else node.kwargs.get("input")
    if not isinstance(x, fx.Node) or not _accumulates(node) or not _is_float(node) or _starts_from_zeros(x):
        return
    zeros = _emit(node, torch.zeros_like, x, like=x)
    with node.graph.inserting_before(node):
        added = node.graph.create_node(node.op, node.target, (zeros, *node.args[1:]), dict(node.kwargs))
    added.kwargs = {k: v for k, v in added.kwargs.items() if k != "input"}
    added.meta = dict(node.meta)
    _become(node, operator.add, x, added)


def _accumulates(node: fx.Node) -> bool:
    """Whether a write to places adds to what is there."""
    name = canonical_name(node)
    if name == "index_put":
        return node.kwargs.get("accumulate", node.args[3] if len(node.args) > 3 else False) is True
    if name in ("scatter", "scatter_reduce"):
        how = node.kwargs.get("reduce", node.args[4] if len(node.args) > 4 else None)
        return how in ("add", "sum") and node.kwargs.get("include_self", True) is True
    return True


def _is_float(node: fx.Node) -> bool:
    dtype = dtype_of(node)
    return dtype is not None and dtype.is_floating_point and (rank_of(node) or 0) >= 2


def _starts_from_zeros(x: fx.Node) -> bool:
    """Whether a result is put together from nothing, as by the experts of a mixture: no value is added to."""
    while canonical_name(x) in _SCATTERING or kind_of(x) in (Kind.CAST, Kind.COPY, Kind.SHAPE):
        if not x.all_input_nodes:
            return False
        x = x.all_input_nodes[0]
    return canonical_name(x) in ("zeros", "zeros_like", "new_zeros", "full", "full_like", "new_full")


def _over_a_stack(node: fx.Node) -> None:
    """`stack([x, y]).sum(0)` becomes `x + y`; a mean is divided by the number of terms."""
    x, axis = _arguments(node, "input", "dim")
    axis = node.kwargs.get("axis", axis)
    axis = axis[0] if isinstance(axis, (tuple, list)) and len(axis) == 1 else axis
    terms = _stacked(x, axis)
    if terms and _is_float(node) and same_shape(terms[0], node) and dtype_of(terms[0]) == dtype_of(node):
        total = _total(node, terms)
        if canonical_name(node) == "mean":
            _become(node, operator.truediv, total, len(terms))
        else:
            _become(node, operator.add, *total.args)
        _erase_unused(node, x, total)


def _total(node: fx.Node, terms: list[fx.Node]) -> fx.Node:
    total = terms[0]
    for term in terms[1:]:
        total = _emit(node, operator.add, total, term, like=term)
    return total


def _stacked(x: Any, axis: Any) -> list[fx.Node]:
    """What is stacked along this axis and used for nothing else."""
    if not isinstance(x, fx.Node) or canonical_name(x) != "stack" or len(x.users) != 1 or not isinstance(axis, int):
        return []
    terms, at = _arguments(x, "tensors", "dim")
    rank = rank_of(x)
    if not isinstance(terms, (list, tuple)) or not 2 <= len(terms) <= _MANY or rank is None:
        return []
    return list(terms) if axis % rank == (at or 0) % rank else []


def _einsum(node: fx.Node) -> None:
    """An einsum that sums over the axis of a stack, with a weight for each term or without."""
    equation, *operands = node.args
    operands = list(operands[0]) if len(operands) == 1 and isinstance(operands[0], (tuple, list)) else operands
    if not isinstance(equation, str) or "->" not in equation or "." in equation or len(operands) > 2:
        return
    left, _, result = equation.replace(" ", "").partition("->")
    letters = dict(zip(operands, left.split(","), strict=False))
    for stack, term in [(operand, t) for operand, t in letters.items() if isinstance(operand, fx.Node)]:
        gone = [letter for letter in term if letter not in result]
        rest = [other for other in letters if other is not stack]
        is_weight = all(letters[other] == gone[0] for other in rest) if len(gone) == 1 else False
        if len(gone) == 1 and (not rest or is_weight) and term.replace(gone[0], "") == result:
            _weighted(node, stack, _stacked(stack, term.index(gone[0])), rest)
            return


def _erase_unused(node: fx.Node, *others: fx.Node) -> None:
    for other in others:
        if not other.users:
            node.graph.erase_node(other)


def _weighted(node: fx.Node, stack: fx.Node, terms: list[fx.Node], weights: list[Any]) -> None:
    if not terms or not _is_float(node):
        return
    for weight in weights:
        factors = [_emit(node, operator.getitem, weight, i) for i in range(len(terms))]
        for factor in factors:
            value = tensor_of(weight)
            factor.meta = {**node.meta, "val": None if value is None else value[0], "example_value": None}
            factor.meta = {k: v for k, v in factor.meta.items() if v is not None}
        terms = [_product(node, f, t) for f, t in zip(factors, terms, strict=True)]
    total = _total(node, terms)
    _become(node, operator.add, *total.args)
    _erase_unused(node, stack, total)


_SCATTERING = frozenset({"index_add", "scatter_add", "index_put", "scatter", "scatter_reduce"})

_SPELLINGS: dict[str, Callable[[fx.Node], None]] = {
    "add": partial(_with_factor, combine=operator.add),
    **dict.fromkeys(("sub", "subtract"), partial(_with_factor, combine=operator.sub)),
    **dict.fromkeys(("rsub", "rsub_scalar"), _reversed),
    "addcmul": partial(_fused, combine=operator.mul),
    "addcdiv": partial(_fused, combine=operator.truediv),
    "lerp": _interpolation,
    **dict.fromkeys(("addmm", "baddbmm"), _with_product),
    **dict.fromkeys(_SCATTERING, _scattered),
    **dict.fromkeys(("sum", "mean"), _over_a_stack),
    "einsum": _einsum,
}
