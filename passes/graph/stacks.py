"""Sums over the axis along which values were stacked, in every way to write one: they become sums of these values.

Summed, averaged, weighted or contracted with a vector; stacked, or put together and given an axis by a view. Where the
stack is used for something else as well, it is one tensor: its sum stays, and is an add along an axis.
"""

from __future__ import annotations

import operator
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, replace
from math import inf
from typing import Any

import torch
from torch import fx

from mhc_compile.passes.graph.axes import permutation
from mhc_compile.passes.graph.contractions import CONTRACTIONS, with_vector
from mhc_compile.passes.graph.op_kinds import Kind, canonical_name, kind_of
from mhc_compile.passes.graph.values import dtype_of, rank_of, same_shape, shape_of, tensor_of
from mhc_compile.passes.graph.wording import arguments, become, emit, is_float, product

_MANY = 16  # terms of a stack that are still added one by one
_JOINS = {"stack": 0, "cat": 0, "concat": 0, "concatenate": 0, "vstack": 0, "row_stack": 0, "hstack": 1,
          "column_stack": 1, "dstack": 2}  # fmt: skip
"""What puts values together, and along which axis where it does not say."""


@dataclass(frozen=True)
class Stack:
    """What lies along one axis of a tensor.

    Attributes:
        terms: one value for each position.
        gone: the nodes between the terms and the sum.
        intact: whether it has the terms as they are: the other axes in order, nothing rounded, gradients too.
        weight, at: what the terms are multiplied by, and along which of its axes there is one for each.
    """

    terms: tuple[fx.Node, ...]
    gone: tuple[fx.Node, ...]
    intact: bool = True
    weight: fx.Node | None = None
    at: int = 0


def sum_over_stack(node: fx.Node) -> None:
    """`stack([x, y]).sum(0)` becomes `x + y`; a mean is divided by the number of terms."""
    x, axes = _summed(node)
    axis = axes[0] if len(axes) == 1 else None
    stack = _stack(node, x, axis)
    if stack is None:
        return
    if canonical_name(node) == "nansum":
        stack = replace(
            stack, terms=tuple(emit(node, torch.nan_to_num, t, 0.0, inf, -inf, like=t) for t in stack.terms)
        )
    parts = len(stack.terms) if canonical_name(node) == "mean" else 1
    kept = node.kwargs.get("keepdim", node.args[2] if len(node.args) > 2 else False) is True
    _add_up(node, stack, parts, axis if kept else None)


def contract_stack(node: fx.Node) -> None:
    """A product of a stack with a vector along its axis: `einsum`, `tensordot` or `matmul`."""
    found = with_vector(node)
    if found is None:
        return
    x, axis, weight = found
    stack = _stack(node, x, axis)
    if stack is not None:
        _add_up(node, stack if weight is None else _weighted(node, replace(stack, weight=weight, at=0)))


def adds_up_stack(node: fx.Node) -> bool:
    """Whether a node still adds up what was stacked: the stack is used elsewhere, has too many terms or the like."""
    if canonical_name(node) in CONTRACTIONS:
        x, axis, _ = with_vector(node) or (None, None, None)
        return _parts(node, x, axis) is not None
    x, axes = _summed(node) if canonical_name(node) in ("sum", "mean", "nansum", "nanmean") else (None, ())
    return any(_parts(node, x, axis) is not None for axis in axes)


def _summed(node: fx.Node) -> tuple[Any, Sequence[Any]]:
    x, axis = arguments(node, "input", "dim")
    axis = node.kwargs.get("axis", axis)
    return x, axis if isinstance(axis, (tuple, list)) else (axis,)


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
    stack = _parts(node, x, axis)
    if stack is None or not stack.intact or any(len(made.users) != 1 for made in stack.gone):
        return None
    first = stack.terms[0]
    alike = all(same_shape(first, t) and dtype_of(t) == dtype_of(first) for t in stack.terms)
    if not alike or len(stack.terms) > _MANY or len(shape_of(first)) != len(shape_of(x)) - 1:
        return None
    weighted = _weighted(node, stack)
    return weighted if dtype_of(weighted.terms[0]) == dtype_of(node) else _cast(node, weighted)


def _parts(node: fx.Node, x: Any, axis: Any) -> Stack | None:
    """What lies along this axis of what is summed, however it came there."""
    rank = rank_of(x) if isinstance(x, fx.Node) else None
    if not isinstance(axis, int) or not rank or not is_float(node):
        return None
    stack = _weights_on_stack(x, axis % rank) or _stacked(x, axis % rank)
    return stack if stack is not None and len(stack.terms) > 1 else None


def _cast(node: fx.Node, stack: Stack) -> Stack:
    """The terms in the dtype they are summed in."""
    dtype, terms = dtype_of(node), []
    for term in stack.terms:
        cast, value = emit(node, torch.Tensor.to, term, dtype, like=term), tensor_of(term)
        cast.meta = {**cast.meta, "val": None if value is None else value.to(dtype)}
        terms.append(cast)
    return replace(stack, terms=tuple(terms))


def _stacked(x: fx.Node, axis: int) -> Stack | None:
    """`stack([a, b], axis)`, or `cat([a[None], b[None]])`, or what is seen another way and is one of these."""
    if kind_of(x) in (Kind.SHAPE, Kind.COPY, Kind.CAST):
        stack = _seen_as(x, x.all_input_nodes[0], axis)
        return stack and replace(stack, intact=stack.intact and _keeps_values(x))
    terms, at = _joined(x)
    if not terms or at != axis:
        return None
    if canonical_name(x) == "stack":
        return Stack(terms, (x,))
    longer = [*_shorter(terms, axis)]
    return Stack(tuple(longer), (x, *terms)) if len(longer) == len(terms) else None


def _keeps_values(x: fx.Node) -> bool:
    """Whether a node gives all of its operand, gradients too: a cast to less and `detach` do not."""
    kind = kind_of(x)
    if kind is not Kind.CAST:
        return kind is Kind.SHAPE or (kind is Kind.COPY and canonical_name(x) not in ("detach", "requires_grad_"))
    before, after = dtype_of(x.all_input_nodes[0]), dtype_of(x)
    return before is not None and after is not None and torch.promote_types(before, after) == after


def _joined(x: fx.Node) -> tuple[tuple[fx.Node, ...], int]:
    """The values that are stacked or concatenated, and along which axis of the result; none if they are not."""
    name = canonical_name(x)
    terms, at = arguments(x, "tensors", "dim")
    if name not in _JOINS or not isinstance(terms, (list, tuple)) or not all(isinstance(t, fx.Node) for t in terms):
        return (), 0
    return tuple(terms), (_JOINS[name] if at is None else at) % (rank_of(x) or 1)


def _seen_as(x: fx.Node, source: fx.Node, axis: int) -> Stack | None:
    """Behind a permutation or a copy, and where a view gives what was concatenated an axis of its own."""
    rank = rank_of(x) or 0
    order = permutation(x, rank) if kind_of(x) is Kind.SHAPE else [*range(rank)]
    if order is not None:
        stack, others = _stacked(source, order[axis]), [a for a in order if a != order[axis]]
        in_order = others == sorted(others)
        return stack and replace(stack, gone=(x, *stack.gone), intact=stack.intact and in_order)
    terms, at = _joined(source)
    shapes = {tuple(map(str, shape_of(term))) for term in terms}
    split = [(*shape[:at], str(len(terms)), *shape[at:]) for shape in shapes]
    is_split = canonical_name(source) != "stack" and at == axis and split == [tuple(map(str, shape_of(x)))]
    return Stack(terms, (x, source)) if is_split else None


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


def _weights_on_stack(x: fx.Node, axis: int) -> Stack | None:
    """`weights * stack([a, b])`, one number or tensor for each position."""
    if canonical_name(x) not in ("mul", "multiply") or len(x.args) != 2:
        return None
    for stacked, weight in (x.args, x.args[::-1]):
        if not (isinstance(stacked, fx.Node) and isinstance(weight, fx.Node) and same_shape(stacked, x)):
            continue
        stack = _stacked(stacked, axis)
        at = axis - (len(shape_of(x)) - (rank_of(weight) or 0))
        if stack is not None and at >= 0 and shape_of(weight)[at] == len(stack.terms):
            return replace(stack, gone=(x, *stack.gone), weight=weight, at=at)
    return None


def _weighted(node: fx.Node, stack: Stack) -> Stack:
    """Each term times its own weight."""
    weight, at, terms = stack.weight, stack.at, []
    if weight is None:
        return stack
    value = tensor_of(weight)
    for i, term in enumerate(stack.terms):
        factor = emit(node, torch.select, weight, at, i, like=weight)
        kept = {k: v for k, v in factor.meta.items() if k not in ("val", "example_value")}
        factor.meta = kept if value is None else {**kept, "val": value.select(at, i)}
        terms.append(product(node, factor, term))
    return replace(stack, terms=tuple(terms))
