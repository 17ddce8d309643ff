"""Find the skip of one sum: the operand, or the value it was lifted from, that every other operand is computed from."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass

from mhc_compile.passes.graph.ancestry import Ancestry, through_weight
from mhc_compile.passes.graph.op_kinds import LINEAR, Kind
from mhc_compile.passes.graph.values import same_shape, tensor_of
from mhc_compile.passes.plan.reasons import Reason

_MAX_LIFTS = 16  # ops between the split and the add that are still looked through
PLAIN = frozenset({Kind.SHAPE, Kind.CAST, Kind.COPY})
"""Kinds behind which a value is the same."""


@dataclass(frozen=True)
class Skip:
    """`operand` carries the identity path; it is `base` after the linear ops `lifts` (operand last)."""

    operand: int
    base: int
    lifts: tuple[int, ...]


@dataclass(frozen=True)
class NoSkip:
    """Why a sum has no skip."""

    reason: Reason
    detail: str


def find_skip(
    graph: Ancestry, operands: Sequence[int], is_branch: Callable[[int], bool] = through_weight
) -> Skip | NoSkip:
    """The skip among `operands`, or the best explanation why there is none.

    Args:
        graph: the graph.
        operands: the terms of a sum.
        is_branch: whether what lies between the skip and another term makes it a branch.
    """
    if len(set(operands)) != len(operands):
        return NoSkip(Reason.NOT_ANCESTOR, "adds a value to itself")
    reached_without_weight = False
    for operand in operands:
        others = [o for o in operands if o != operand]
        for base, lifts in _origins(graph, operand):
            flows = [graph.reach(base, o) for o in others]
            weighted = all(map(is_branch, flows))
            if weighted and _sides_independent(graph, base, lifts):
                return Skip(operand, base, lifts)
            reached_without_weight |= all(flows) and not weighted
    if reached_without_weight:
        return NoSkip(Reason.NO_WEIGHT, "")
    return _mixed_streams(graph, operands) or _changed_shortcut(graph, operands) or NoSkip(Reason.NOT_ANCESTOR, "")


def _origins(graph: Ancestry, operand: int) -> Iterator[tuple[int, tuple[int, ...]]]:
    """The operand, then what it becomes when linear ops and shifts are undone one by one."""
    todo: list[tuple[int, tuple[int, ...]]] = [(operand, ())]
    for _ in range(_MAX_LIFTS):
        if not todo:
            return
        base, lifts = todo.pop(0)
        yield base, lifts
        if graph.kinds[base] in LINEAR or graph.kinds[base] in (Kind.ADD, Kind.SUB):  # a shift by something else
            todo += [(j, (base, *lifts)) for j in graph.inputs[base] if full_size(graph, base, j)]


def full_size(graph: Ancestry, result: int, operand: int) -> bool:
    """Whether the operand can be the stream: a scale, mask or rotary table is smaller than what it multiplies."""
    if graph.kinds[result] is Kind.SELECT:
        return tensor_of(graph.nodes[operand]) is not None
    return graph.kinds[result] in (Kind.SHAPE, Kind.ARRANGE) or same_shape(graph.nodes[result], graph.nodes[operand])


def _sides_independent(graph: Ancestry, base: int, lifts: Sequence[int]) -> bool:
    """Whether the lifted ops combine the stream with nothing that is computed from it (no gates)."""
    path = {base, *lifts}
    sides = (j for lift in lifts for j in graph.inputs[lift] if j not in path)
    return not any(graph.reach(base, side) for side in sides)


def _mixed_streams(graph: Ancestry, operands: Sequence[int]) -> NoSkip | None:
    """Recognise `comb @ X + post * f(X)` with `comb` computed from X: hyper-connections of the model's own."""
    for operand in operands:
        mixes = _unlifted(graph, operand)
        terms = graph.inputs[mixes]
        if graph.kinds[mixes] is not Kind.OPAQUE or graph.weights[mixes] or len(terms) != 2:
            continue
        others = [o for o in operands if o != operand]
        for streams, matrix in (terms, terms[::-1]):
            if all(through_weight(graph.reach(_unlifted(graph, streams), o)) for o in (matrix, *others)):
                return NoSkip(Reason.MULTI_STREAM, f"mixed by {graph.nodes[mixes].name}")
    return None


def _unlifted(graph: Ancestry, i: int) -> int:
    """The value before the casts, views and scales that lead to node `i`."""
    while graph.kinds[i] in LINEAR and len(graph.inputs[i]) == 1:
        i = graph.inputs[i][0]
    return i


def _changed_shortcut(graph: Ancestry, operands: Sequence[int]) -> NoSkip | None:
    """Recognise `g(x) + f(x)`, where g keeps the sum from having an identity path, and name g."""
    for operand in operands:
        base = operand
        weights: list[str] = []
        changes: list[str] = []
        for _ in range(_MAX_LIFTS):
            inputs = graph.inputs[base]
            if len(inputs) != 1:
                break
            weights += graph.weights[base]
            if graph.kinds[base] in (Kind.OPAQUE, Kind.SELECT, Kind.NORM_LAST, Kind.FOLDED, Kind.POINTWISE):
                changes.append(graph.nodes[base].name)
            base = inputs[0]
            if all(through_weight(graph.reach(base, o)) for o in operands if o != operand):
                if weights:
                    return NoSkip(Reason.PROJECTED_SHORTCUT, f"through {weights[0]}")
                return NoSkip(Reason.RESHAPED_SKIP, f"by {changes[-1] if changes else graph.nodes[operand].name}")
    return None


def sums_with(graph: Ancestry, base: int) -> set[int]:
    """Sums that have the value for a term: as it is, seen another way, or scaled."""
    found: set[int] = set()
    todo, seen = [base], {base}
    while todo:
        here = todo.pop()
        for i in (graph.index[user] for user in graph.nodes[here].users):
            if graph.kinds[i] in (Kind.ADD, Kind.SUB) and same_shape(graph.nodes[here], graph.nodes[i]):
                found.add(i)
            elif i not in seen and graph.kinds[i] in PLAIN | {Kind.SCALE, Kind.DROPOUT} and full_size(graph, i, here):
                seen.add(i)
                todo.append(i)
    return found
