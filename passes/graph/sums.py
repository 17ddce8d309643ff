"""Every float add of a graph, flattened into sums of operands."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass

import torch
from torch import fx

from mhc_compile.passes.graph.ancestry import Ancestry
from mhc_compile.passes.graph.op_kinds import Kind, canonical_name
from mhc_compile.passes.graph.stacks import adds_up_stack
from mhc_compile.passes.graph.values import dtype_of, rank_of, same_shape
from mhc_compile.passes.plan.reasons import Reason


@dataclass(frozen=True)
class Operand:
    """One term of a sum: the position of its node, and whether it is subtracted."""

    node: int
    negated: bool = False


@dataclass(frozen=True)
class Sum:
    """A float add: its position, its terms, and the inner adds folded into it (itself last)."""

    add: int
    operands: tuple[Operand, ...]
    adds: tuple[int, ...]


@dataclass(frozen=True)
class NotASum:
    """A float add that cannot be a residual whatever its operands are computed from."""

    add: int
    reason: Reason
    detail: str


_RUNNING = frozenset({"cumsum", "addbmm", "addr"})
"""Operators that add up parts of their operands, whatever these are: counted, and never a residual."""
_AVERAGING = frozenset({"scatter", "scatter_reduce", "index_reduce"})
"""Operators that do so where they are asked for a mean: sums are spelled out."""


def is_float_add(graph: Ancestry, i: int) -> bool:
    """Whether node `i` is an add or a subtraction of real or complex numbers.

    Its rank is unknown or at least 2; a vector counts where data is added to data.
    """
    node = graph.nodes[i]
    if graph.kinds[i] not in (Kind.ADD, Kind.SUB) and not _adds_parts(node):
        return False
    rank, dtype = rank_of(node), dtype_of(node)
    if dtype is None:
        return node.meta.get("val", node.meta.get("example_value")) is None and bool(node.all_input_nodes)
    is_large = rank is not None and (rank >= 2 or (rank == 1 and _adds_data(graph, node)))
    return is_large and (dtype.is_floating_point or dtype.is_complex)


def _adds_parts(node: fx.Node) -> bool:
    name = canonical_name(node)
    averages = name in _AVERAGING and "mean" in (*node.args, *node.kwargs.values())
    return name in _RUNNING or averages or adds_up_stack(node)


def _adds_data(graph: Ancestry, node: fx.Node) -> bool:
    terms = [graph.index[term] for term in node.all_input_nodes if same_shape(term, node)]
    return len(terms) == 2 and all(graph.from_input[i] for i in terms)


def direct_sum(graph: Ancestry, i: int) -> Sum | NotASum:
    """The two terms of the add at position `i`, or why it is none of interest."""
    node = graph.nodes[i]
    dtype = dtype_of(node)
    if graph.kinds[i] not in (Kind.ADD, Kind.SUB):
        return NotASum(i, Reason.ALONG_AXIS, f"by {canonical_name(node)}")
    if dtype is not None and dtype.is_complex:
        return NotASum(i, Reason.COMPLEX, "")
    terms = _terms(node)
    tensors = [t for t in terms if isinstance(t, fx.Node) and not _is_number(t)]
    if len(terms) != 2 or len(tensors) != 2:
        return NotASum(i, Reason.SCALAR, "")
    for term in tensors:
        if not same_shape(term, node):
            return NotASum(i, Reason.BROADCAST, f"{term.name} is broadcast")
    if rank_of(node) == 1:
        return NotASum(i, Reason.VECTOR, "")
    left, right = (graph.index[t] for t in tensors)
    return Sum(i, (Operand(left), Operand(right, graph.kinds[i] is Kind.SUB)), (i,))


def _terms(node: fx.Node) -> tuple[object, ...]:
    keywords = (node.kwargs[k] for k in ("input", "self", "other") if k in node.kwargs)
    return (*node.args[:2], *keywords)


def _is_number(node: fx.Node) -> bool:
    """Whether the node is a Python or symbolic number; a tensor of rank 0 is a tensor, and is broadcast."""
    value = node.meta.get("val", node.meta.get("example_value"))
    return value is not None and not isinstance(value, torch.Tensor)


def inner_sums(graph: Ancestry, outer: Sum, sums: dict[int, Sum]) -> Iterator[Sum]:
    """Sums that are a term of `outer` and used by nothing else."""
    for operand in outer.operands:
        inner = sums.get(operand.node)
        if inner is not None and len(graph.nodes[operand.node].users) == 1:
            yield inner


def fold(outer: Sum, inner: Sum) -> Sum:
    """`outer` with its term `inner` replaced by the terms of `inner`, in place and in order."""
    operands: list[Operand] = []
    for operand in outer.operands:
        if operand.node == inner.add:
            operands += [Operand(o.node, o.negated ^ operand.negated) for o in inner.operands]
        else:
            operands.append(operand)
    return Sum(outer.add, tuple(operands), (*inner.adds, *outer.adds))
