"""Choose one level where one chain of residual adds lies inside a branch of another."""

from __future__ import annotations

from collections import Counter
from collections.abc import Collection, Iterator, Mapping, Sequence

from mhc_compile.passes.detect.links import Link, find_link, find_links
from mhc_compile.passes.detect.residuals import Candidate
from mhc_compile.passes.detect.towers import foreign_adds, seen_through_weight
from mhc_compile.passes.graph.ancestry import Ancestry
from mhc_compile.passes.graph.op_kinds import LINEAR
from mhc_compile.passes.graph.values import traced_sizes


def chain_lengths(
    candidates: Sequence[Candidate], links: Mapping[int, Link], around: Mapping[int, frozenset[int]]
) -> dict[int, int]:
    """For each candidate, the number of sites in the chain (or tree) it belongs to, on its own level.

    Args:
        candidates: residual adds in graph order; those without a weight join two chains and do not count.
        links: what joins them.
        around: the adds in whose branch each candidate lies. A link between two levels does not count: the first site
            inside a long skip often continues the stream the skip leaves from, and would count both levels as one.
    """
    root = {c.add: c.add for c in candidates}
    for c in candidates:  # in graph order, so that the source's root is final
        link = links.get(c.add)
        if link is not None and around[link.source] == around[c.add]:
            root[c.add] = root[link.source]
    sizes = Counter(root[c.add] for c in candidates if not c.weightless)
    return {add: sizes[r] for add, r in root.items()}


def resolve_nesting(
    graph: Ancestry,
    candidates: Sequence[Candidate],
    how: str,
    channel_axes: Mapping[int, int] | None = None,
    mixers: Sequence[Candidate] = (),
) -> tuple[list[Candidate], dict[int, Candidate]]:
    """Keep one level of nested residuals.

    Args:
        graph: the graph the candidates live in.
        candidates: residual adds in graph order.
        how: "longest" (the level with the longest chain; on a tie the outer one, unless it has fewer sites), "outer" or
            "inner".
        channel_axes: of the candidates, where they are known. A long skip around sites of another resolution bridges
            them and continues no chain: its length is one. So is that of a sum of two states of the same stream, as in
            a U of one resolution: without it, what lies between the two is one chain with what lies around.
        mixers: sums without a weight, which become sites of a chain that goes through them.

    Returns:
        The kept candidates in graph order, and for each dropped add the kept candidate it conflicts with.
    """
    links = find_links(graph, candidates)
    around = _surroundings(graph, candidates, links)
    if not any(around.values()):
        return list(candidates), {}
    conflicts = _conflicts(around)
    length = _lengths(graph, candidates, mixers)
    alone = {*_bridges(graph, around, channel_axes or {}), *_shortcuts(graph, candidates, links)}
    length.update(dict.fromkeys(alone, 1))
    size = {c.add: len(c.branch_nodes) for c in candidates}
    sign = {"longest": -1, "outer": 0, "inner": 0}[how]
    outward = 1 if how == "inner" else -1
    inside = Counter(o for outers in around.values() for o in outers if outers == around[o] | {o})
    # On a tie the outer level wins, unless more sites than it has itself would go with it.
    crowded = {c.add: how == "longest" and inside[c.add] > length[c.add] for c in candidates}
    order = sorted(candidates, key=lambda c: (sign * length[c.add], crowded[c.add], outward * size[c.add], c.add))
    kept: dict[int, Candidate] = {}
    dropped: dict[int, Candidate] = {}
    for candidate in order:
        winner = next((kept[o] for o in conflicts.get(candidate.add, ()) if o in kept), None)
        if winner is None:
            kept[candidate.add] = candidate
        else:
            dropped[candidate.add] = winner
    return [c for c in candidates if c.add in kept], dropped


def _lengths(graph: Ancestry, candidates: Sequence[Candidate], mixers: Sequence[Candidate]) -> dict[int, int]:
    """`chain_lengths` of the candidates and of what may join them."""
    adds = {c.add for c in candidates}
    joining = [m for m in mixers if not adds & m.branch_nodes]
    everything = sorted([*candidates, *joining], key=lambda c: c.add)
    links = find_links(graph, everything)
    return chain_lengths(everything, links, _surroundings(graph, everything, links))


def _surroundings(
    graph: Ancestry, candidates: Sequence[Candidate], links: Mapping[int, Link]
) -> dict[int, frozenset[int]]:
    """For each candidate's add, the adds of the candidates in whose branch it lies."""
    by_add = {c.add: c for c in candidates}
    around: dict[int, set[int]] = {add: set() for add in by_add}
    for outer in candidates:
        inside = outer.branch_nodes & around.keys()
        towers = foreign_adds(outer, by_add, links)  # updated in between, unless one of them is all that is added
        level = set(inside) - {i for i in towers if seen_through_weight(graph, i, outer)}
        for inner in sorted(inside, reverse=True):  # and with it what its stream has been in this branch
            if inner in level and inner in links and links[inner].source in inside:
                level.add(links[inner].source)
        for inner in level:
            around[inner].add(outer.add)
    return {add: frozenset(outers) for add, outers in around.items()}


def _bridges(graph: Ancestry, around: Mapping[int, frozenset[int]], channel_axes: Mapping[int, int]) -> Iterator[int]:
    """Candidates around others of another resolution: as many axes, but about half as many positions, or twice."""
    for inner, outers in around.items():
        for outer in outers:
            ours, theirs = _positions(graph, outer, channel_axes), _positions(graph, inner, channel_axes)
            if len(ours) == len(theirs) and any(
                max(a, b) >= _STEP * min(a, b) for a, b in zip(ours, theirs, strict=True)
            ):
                yield outer


def _shortcuts(graph: Ancestry, candidates: Sequence[Candidate], links: Mapping[int, Link]) -> Iterator[int]:
    """Candidates that add up an earlier and a later state of one stream, with sites and no map between the two."""
    by_add = {c.add: c for c in candidates}
    for outer in candidates:
        inside = {add: by_add[add] for add in outer.branch_nodes & by_add.keys()}
        ends = [find_link(graph, branch.node, inside) for branch in outer.branches] if inside else []
        if any(end and _same_stream(graph, end, outer, inside, links) for end in ends):
            yield outer.add


def _same_stream(
    graph: Ancestry, end: Link, outer: Candidate, inside: Mapping[int, Candidate], links: Mapping[int, Link]
) -> bool:
    """Whether the chain of sites inside that leads to `end` begins at the base of the one around."""
    if any(graph.kinds[i] not in LINEAR for i in end.path):
        return False
    first = end.source
    while first in links and links[first].source in inside:
        first = links[first].source
    return inside[first].skip.base == outer.skip.base


_STEP = 1.7  # 7 positions of 4: a pooling by two, an odd size included


def _positions(graph: Ancestry, add: int, channel_axes: Mapping[int, int]) -> tuple[int, ...]:
    axis = channel_axes.get(add, -1)
    return (
        tuple(size for i, size in enumerate(traced_sizes(graph.nodes[add])) if i not in (0, axis)) if axis > 0 else ()
    )


def _conflicts(around: Mapping[int, frozenset[int]]) -> dict[int, set[int]]:
    """Pairs of candidates of which one lies in the other's branch, both ways round."""
    conflicts: dict[int, set[int]] = {}
    for inner, outers in around.items():
        for outer in outers:
            conflicts.setdefault(outer, set()).add(inner)
            conflicts.setdefault(inner, set()).add(outer)
    return conflicts


def company(graph: Ancestry, kept: Sequence[Candidate], mixers: Sequence[Candidate]) -> dict[int, int]:
    """Which of the sums without a weight lie on a stream of the kept sites, each with the nearest of these."""
    inside = {i for c in kept for i in c.branch_nodes}
    free = [m for m in mixers if m.add not in inside and not any(c.add in m.branch_nodes for c in kept)]
    everything = sorted([*kept, *free], key=lambda c: c.add)
    links = find_links(graph, everything)
    before = {add: link.source for add, link in links.items()}
    following = {link.source: add for add, link in reversed(links.items())}
    weighted = {c.add for c in kept}
    found: dict[int, int] = {}
    for mixer in free:
        later = _nearest(mixer.add, following, weighted)
        near = _nearest(mixer.add, before, weighted) if later is None else later
        if near is not None:
            found[mixer.add] = near
    return found


def _nearest(add: int, onward: Mapping[int, int], weighted: Collection[int]) -> int | None:
    here: int | None = add
    while here is not None and here not in weighted:
        here = onward.get(here)
    return here
