"""Detect residual adds: which sums have a skip that every other term is computed from through a learnable weight.

Structural proof only: reachability decides, never the name of a module or a fixed pattern of operators. Every float add
of the graph ends in exactly one candidate or one rejection.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace

from mhc_compile.passes.detect.skips import NoSkip, Skip, find_skip, sums_with
from mhc_compile.passes.graph.ancestry import Ancestry, through_mixer, through_weight
from mhc_compile.passes.graph.cuts import padding_of, positions_cut
from mhc_compile.passes.graph.normalise import observed_mutations
from mhc_compile.passes.graph.op_kinds import MOVING
from mhc_compile.passes.graph.sums import NotASum, Operand, Sum, direct_sum, fold, inner_sums, is_float_add
from mhc_compile.passes.lift.lifting import can_lift
from mhc_compile.passes.plan.reasons import Reason


@dataclass(frozen=True)
class Candidate:
    """A residual add, before nesting is resolved: positions of its nodes.

    One without a weight mixes positions in its branch, and is a site where its segment has weights.
    """

    total: Sum
    skip: Skip
    branches: tuple[Operand, ...]
    branch_nodes: frozenset[int]
    weightless: bool = False

    @property
    def add(self) -> int:
        """Position of the outermost add."""
        return self.total.add


@dataclass(frozen=True)
class Rejected:
    """A float add that is no residual, with the inner adds folded into it."""

    adds: tuple[int, ...]
    reason: Reason
    detail: str = ""

    @property
    def add(self) -> int:
        """Position of the outermost add."""
        return self.adds[-1]


def find_residuals(graph: Ancestry) -> tuple[list[Candidate], list[Rejected]]:
    """Split the float adds of a graph into candidates and rejections, in graph order."""
    found = _classify_sums(graph)
    rejected = [f for f in found.values() if isinstance(f, Rejected)]
    skips = [f for f in found.values() if not isinstance(f, Rejected)]
    uses = _uses_as_skip(skips)
    mutated = {graph.index[n] for n in observed_mutations(graph.gm)}
    candidates = []
    for total, skip in skips:
        problem = _disqualify(graph, total, skip, uses, mutated)
        if problem:
            rejected.append(problem)
        else:
            candidates.append(_candidate(graph, total, skip))
    return candidates, sorted(rejected, key=lambda r: r.add)


def find_mixers(graph: Ancestry, rejected: Sequence[Rejected]) -> list[Candidate]:
    """Sums that were rejected for want of a weight, but whose branch mixes positions: sites in the right company.

    What is subtracted is a filter (the trend of a series), and the difference the stream that goes on.
    """
    found: list[Candidate] = []
    mutated = {graph.index[n] for n in observed_mutations(graph.gm)}
    for refused in rejected:
        if refused.reason is not Reason.NO_WEIGHT or len(refused.adds) > 1 or not graph.from_input[refused.add]:
            continue
        total = direct_sum(graph, refused.add)
        assert isinstance(total, Sum)
        skip = find_skip(graph, [o.node for o in total.operands], through_mixer)
        if any(o.negated for o in total.operands):
            continue  # `x - average(x)` is a filter, as the mean taken away by a norm is
        if isinstance(skip, Skip) and not _disqualify(graph, total, skip, {skip.base: []}, mutated):
            found.append(replace(_candidate(graph, total, skip), weightless=True))
    return found


_Found = Rejected | tuple[Sum, Skip]


def _classify_sums(graph: Ancestry) -> dict[int, _Found]:
    sums: dict[int, Sum] = {}
    found: dict[int, _Found] = {}
    for i in range(len(graph.nodes)):
        if not is_float_add(graph, i):
            continue
        direct = direct_sum(graph, i)
        if isinstance(direct, NotASum):
            found[i] = Rejected((i,), direct.reason, direct.detail)
            continue
        total, result = _flatten(graph, direct, sums, found)
        sums[i] = total
        for inner in total.adds[:-1]:
            found.pop(inner, None)
        found[i] = (total, result) if isinstance(result, Skip) else Rejected(total.adds, result.reason, result.detail)
    return found


def _flatten(graph: Ancestry, total: Sum, sums: dict[int, Sum], found: dict[int, _Found]) -> tuple[Sum, Skip | NoSkip]:
    """Fold single-use inner sums in, unless that would swallow a residual that has a skip of its own.

    `(x + attn) + mlp` is one site with skip x; `(x + f(x)) + x0` is a residual inside a longer one.
    """
    for inner in list(inner_sums(graph, total, sums)):
        folded, known = fold(total, inner), found[inner.add]
        if len({o.node for o in folded.operands}) < len(folded.operands):
            continue  # `x + (pool(x) - x)` is no sum of three
        joint = _skip_of(graph, folded)
        if isinstance(known, Rejected):
            fits = isinstance(joint, Skip) or not isinstance(_skip_of(graph, total), Skip)
        else:
            fits = isinstance(joint, Skip) and joint.base == known[1].base
        total = folded if fits else total
    return total, _skip_of(graph, total)


def _skip_of(graph: Ancestry, total: Sum) -> Skip | NoSkip:
    skip = find_skip(graph, [o.node for o in total.operands])
    if isinstance(skip, Skip) and any(o.negated for o in total.operands if o.node == skip.operand):
        return NoSkip(Reason.NEGATED_SKIP, "")
    return skip


_Uses = dict[int, list[int]]
"""For the base of every skip, the adds it is a skip of, in graph order."""

_MAX_LEVELS = 4  # residuals around one another that may start at one value


def _uses_as_skip(skips: list[tuple[Sum, Skip]]) -> _Uses:
    uses: _Uses = {}
    for total, skip in skips:
        uses.setdefault(skip.base, []).append(total.add)
    return uses


def _added_in_every_layer(graph: Ancestry, total: Sum, base: int, adds: list[int]) -> bool:
    """Whether the same skip comes back many times along one path, as a mask or position bias does in every layer.

    The first sum with it is none of these where the branch reads it as it is, and it is added to the result of that as
    it comes: then it is a stream, and what comes back is its first value.
    """
    if len(adds) <= _MAX_LEVELS or not all(graph.reach(adds[0], add) for add in (total.add, adds[-1])):
        return False
    is_first = total.add == adds[0] and min(sums_with(graph, base), default=total.add) >= min(total.adds)
    return not is_first or through_weight(graph.reach(adds[0], adds[1]))


def _disqualify(graph: Ancestry, total: Sum, skip: Skip, uses: _Uses, mutated: set[int]) -> Rejected | None:
    touched = mutated & {skip.base, *skip.lifts, *total.adds}
    if touched:
        return Rejected(total.adds, Reason.MUTATED, graph.nodes[min(touched)].name)
    if not graph.live[total.add]:
        return Rejected(total.adds, Reason.DEAD)
    if not graph.from_input[skip.base] and (len(uses[skip.base]) > 1 or _branch_lives_on(graph, total, skip)):
        return Rejected(total.adds, Reason.INPUT_INDEPENDENT, graph.nodes[skip.base].name)
    if uses[skip.base] and _added_in_every_layer(graph, total, skip.base, uses[skip.base]):
        return Rejected(total.adds, Reason.INJECTED, f"{graph.nodes[skip.base].name} is added in every layer")
    return _unliftable(graph, total, skip) or _misplaced(graph, total, skip)


def _unliftable(graph: Ancestry, total: Sum, skip: Skip) -> Rejected | None:
    on_stream = {skip.base, *skip.lifts}
    stuck = [i for i in skip.lifts if not can_lift(graph, i, on_stream)]
    moved = any(graph.kinds[i] in MOVING for i in skip.lifts)
    stuck += [i for i in skip.lifts if moved and len(graph.nodes[i].users) > 1]  # the branch would read it half moved
    return Rejected(total.adds, Reason.RESHAPED_SKIP, f"by {graph.nodes[stuck[0]].name}") if stuck else None


def _misplaced(graph: Ancestry, total: Sum, skip: Skip) -> Rejected | None:
    """Reject a convolution with an even kernel whose surplus is cut off: it computes between the positions of the skip.

    What else a branch cuts is its own affair: a causal convolution cuts all of its padding at one end.
    """
    for operand in total.operands:
        here, cut = operand.node, 0
        while operand.node != skip.operand and here > skip.base:
            cut += positions_cut(graph.nodes[here])
            if 0 < cut < padding_of(graph.nodes[here]):
                return Rejected(total.adds, Reason.SLICED, f"behind {graph.names[here]}")
            if len(graph.inputs[here]) != 1:
                break
            here = graph.inputs[here][0]
    return None


def _branch_lives_on(graph: Ancestry, total: Sum, skip: Skip) -> bool:
    """Whether the other operand is used beyond this sum, as the real stream is where a position is added to it."""
    others = [o.node for o in total.operands if o.node != skip.operand]
    return any(len(graph.nodes[o].users) > 1 for o in others)


def _candidate(graph: Ancestry, total: Sum, skip: Skip) -> Candidate:
    branches = tuple(o for o in total.operands if o.node != skip.operand)
    nodes = graph.between(skip.base, [b.node for b in branches])
    return Candidate(total, skip, branches, frozenset(nodes))
