"""Recognise models that keep several residual streams of their own, which are left alone.

In a reversible network `a += f(b); b += g(a)` each stream is written from the other one. Every add has a skip, but its
branch is computed from that skip only by way of the other stream's adds.
"""

from __future__ import annotations

from collections.abc import Sequence

from mhc_compile.passes.ancestry import REACHED, Ancestry, through_weight
from mhc_compile.passes.residuals import Candidate
from mhc_compile.passes.values import same_shape


def is_foreign(inner: Candidate, outer: Candidate) -> bool:
    """Whether the skip of `inner` comes from outside the branch of `outer`, in which its add lies."""
    return inner.skip.base not in outer.branch_nodes | {outer.skip.base, *outer.skip.lifts}


def find_exchanges(graph: Ancestry, candidates: Sequence[Candidate]) -> dict[int, int]:
    """Adds of streams that exchange values, each with an add of the stream it exchanges them with."""
    by_add = {c.add: c for c in candidates}
    found: dict[int, int] = {}
    for candidate in candidates:
        inside = candidate.branch_nodes & by_add.keys()
        foreign = {i for i in inside if is_foreign(by_add[i], candidate) and _is_stream(graph, i, candidate)}
        if foreign and not _reads_itself(graph, candidate, foreign):
            found[candidate.add] = min(foreign)
            found.update((i, candidate.add) for i in foreign if i not in found)
    for candidate in reversed(candidates):  # what such a stream starts with belongs to it
        for later in [by_add[add] for add in found]:
            if candidate.add == later.skip.base and candidate.add not in found:
                found[candidate.add] = later.add
    return found


def _is_stream(graph: Ancestry, foreign: int, candidate: Candidate) -> bool:
    """Whether the foreign add can be a stream beside this one: as large, and seen through a weight.

    A mask or a position added in every layer has the real sites in its branch, but is of another size than they are, or
    is added to them as they come.
    """
    seen = all(through_weight(graph.reach(foreign, b.node)) for b in candidate.branches)
    return seen and same_shape(graph.nodes[foreign], graph.nodes[candidate.add])


def _reads_itself(graph: Ancestry, candidate: Candidate, foreign: set[int]) -> bool:
    """Whether the branch is computed from the skip through a weight without the adds of other streams."""
    flow = {candidate.skip.base: REACHED}
    for i in sorted(candidate.branch_nodes - foreign):
        met = 0
        for j in graph.inputs[i]:
            met |= flow.get(j, 0)
        if met:
            flow[i] = met | graph.met[i]
    return all(through_weight(flow.get(b.node, 0)) for b in candidate.branches)
