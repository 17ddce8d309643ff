"""Sums over the axis along which values were stacked, in every way to write one: they become sums of these values.

Summed, averaged, weighted or contracted with a vector; stacked, or made one longer each and put together. Where the
stack is used for something else as well, it is one tensor, and its sum is no add.
"""

from __future__ import annotations

import operator
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from math import inf
from typing import Any

import torch
from torch import fx

from mhc_compile.passes.graph.contractions import terms_of
from mhc_compile.passes.graph.op_kinds import canonical_name
from mhc_compile.passes.graph.values import dtype_of, rank_of, same_shape, shape_of, tensor_of
from mhc_compile.passes.graph.wording import arguments, become, emit, is_float, product

_MANY = 16  # terms of a stack that are still added one by one


@dataclass(frozen=True)
class Stack:
    """What lies along one axis of a tensor.

    Attributes:
        terms: one value for each position.
        gone: the nodes between the terms and the sum, which nothing else reads.
    """

    terms: tuple[fx.Node, ...]
    gone: tuple[fx.Node, ...]


def sum_over_stack(node: fx.Node) -> None:
    """`stack([x, y]).sum(0)` becomes `x + y`; a mean is divided by the number of terms."""
    x, axis = arguments(node, "input", "dim")
    axis = node.kwargs.get("axis", axis)
    axis = axis[0] if isinstance(axis, (tuple, list)) and len(axis) == 1 else axis
    stack = _stack(node, x, axis)
    if stack is None or node.kwargs.get("dtype") is not None:
        return
    if canonical_name(node) == "nansum":
        stack = Stack(tuple(emit(node, torch.nan_to_num, t, 0.0, inf, -inf, like=t) for t in stack.terms), stack.gone)
    parts = len(stack.terms) if canonical_name(node) == "mean" else 1
    kept = node.kwargs.get("keepdim", node.args[2] if len(node.args) > 2 else False) is True
    _add_up(node, stack, parts, axis if kept else None)


def contract_stack(node: fx.Node) -> None:
    """A product of a stack with a vector along its axis: `einsum`, `tensordot` or `matmul`."""
    found = _CONTRACTIONS[canonical_name(node)](node)
    if found is None:
        return
    x, axis, weight = found
    if isinstance(weight, fx.Node) and rank_of(weight) != 1:
        return
    stack = _stack(node, x, axis)
    if stack is not None:
        _add_up(node, stack if weight is None else _weighted(node, stack, weight, 0))


def _add_up(node: fx.Node, stack: Stack, parts: int = 1, kept_axis: int | None = None) -> None:
    total = stack.terms[0]
    for term in stack.terms[1:]:
        total = emit(node, operator.add, total, term, like=term)
    if kept_axis is not None:
        total = emit(node, operator.truediv, total, parts, like=total) if parts > 1 else total
        become(node, torch.unsqueeze, total, kept_axis)
    elif parts > 1:
        become(node, operator.truediv, total, parts)
    else:
        become(node, operator.add, *total.args)
        node.graph.erase_node(total)
    for other in stack.gone:
        if not other.users:
            node.graph.erase_node(other)


def _stack(node: fx.Node, x: Any, axis: Any) -> Stack | None:
    """What lies along this axis of what is summed, if that is several values of one shape and dtype."""
    rank = rank_of(x) if isinstance(x, fx.Node) else None
    if not isinstance(axis, int) or not rank or len(x.users) != 1 or not is_float(node):
        return None
    stack = _weights_on_stack(node, x, axis % rank) or _stacked(x, axis % rank)
    if stack is None or not 2 <= len(stack.terms) <= _MANY:
        return None
    first = stack.terms[0]
    alike = all(same_shape(first, t) and dtype_of(t) == dtype_of(node) for t in stack.terms)
    return stack if alike and len(shape_of(first)) == rank - 1 else None


def _stacked(x: fx.Node, axis: int) -> Stack | None:
    """`stack([a, b], axis)`, or `cat([a[None], b[None]])`."""
    terms, at = arguments(x, "tensors", "dim")
    if not isinstance(terms, (list, tuple)) or not all(isinstance(t, fx.Node) for t in terms):
        return None
    if (at or 0) % (rank_of(x) or 1) != axis:
        return None
    if canonical_name(x) == "stack":
        return Stack(tuple(terms), (x,))
    longer = [*_shorter(terms, axis)] if canonical_name(x) in ("cat", "concat", "concatenate") else []
    return Stack(tuple(longer), (x, *terms)) if terms and len(longer) == len(terms) else None


def _shorter(terms: Sequence[fx.Node], axis: int) -> Iterator[fx.Node]:
    """The values that were given an axis of size 1 there, and no other."""
    for term in terms:
        source = term.all_input_nodes[0] if term.all_input_nodes else term
        shape = shape_of(term)
        is_longer = canonical_name(term) in ("unsqueeze", "getitem") and shape[axis : axis + 1] == (1,)
        if is_longer and shape_of(source) == (*shape[:axis], *shape[axis + 1 :]) and _counts_alike(source, term):
            yield source


def _counts_alike(source: fx.Node, term: fx.Node) -> bool:
    """Whether nothing was left out on the way: an index may pick, and add an axis besides."""
    index = term.args[1] if canonical_name(term) == "getitem" else None
    parts = index if isinstance(index, tuple) else (index,)
    return all(part is None or part is Ellipsis or part == slice(None) for part in parts)


def _weights_on_stack(node: fx.Node, x: fx.Node, axis: int) -> Stack | None:
    """`weights * stack([a, b])`, one number or tensor for each position."""
    if canonical_name(x) not in ("mul", "multiply") or len(x.args) != 2:
        return None
    for stacked, weight in (x.args, x.args[::-1]):
        if not (isinstance(stacked, fx.Node) and isinstance(weight, fx.Node) and same_shape(stacked, x)):
            continue
        stack = _stacked(stacked, axis) if len(stacked.users) == 1 else None
        at = axis - (len(shape_of(x)) - (rank_of(weight) or 0))
        if stack is not None and at >= 0 and shape_of(weight)[at] == len(stack.terms):
            found = _weighted(node, stack, weight, at)
            return Stack(found.terms, (x, *found.gone))
    return None


def _weighted(node: fx.Node, stack: Stack, weight: fx.Node, at: int) -> Stack:
    """Each term times its own weight: those along axis `at`."""
    value, terms = tensor_of(weight), []
    for i, term in enumerate(stack.terms):
        factor = emit(node, torch.select, weight, at, i, like=weight)
        kept = {k: v for k, v in factor.meta.items() if k not in ("val", "example_value")}
        factor.meta = kept if value is None else {**kept, "val": value.select(at, i)}
        terms.append(product(node, factor, term))
    return Stack(tuple(terms), stack.gone)


_Contraction = tuple[Any, int, fx.Node | None]
"""The stack, its axis, and the vector it is contracted with there."""


def _of_terms(node: fx.Node) -> _Contraction | None:
    letters, result, operands = terms_of(node) or ([], "", [])
    pairs = list(zip(operands, letters, strict=False))
    for stack, term in pairs if len(pairs) <= 2 else ():
        gone = [letter for letter in term if letter not in result]
        rest = [(other, its) for other, its in pairs if other is not stack]
        if len(gone) == 1 and term.replace(gone[0], "") == result and all(its == gone[0] for _, its in rest):
            return stack, term.index(gone[0]), rest[0][0] if rest else None
    return None


def _of_matmul(node: fx.Node) -> _Contraction | None:
    left, right = (*node.args, *node.kwargs.values())[:2]
    return _with_vector(left, -1, right)


def _with_vector(stack: Any, axis: int, vector: Any) -> _Contraction | None:
    return (stack, axis, vector) if isinstance(vector, fx.Node) and rank_of(vector) == 1 else None


_CONTRACTIONS = {"einsum": _of_terms, "tensordot": _of_terms, "matmul": _of_matmul}
