"""Several residual streams in one model: towers that feed each other, and streams a model brings along.

Of two towers that read each other (nodes and edges, features and coordinates) each has its sites: what lies in a
branch of one is a level inside it only where it starts in that branch. In a reversible network, `a += f(b); b += g(a)`,
no stream ever reads itself, the two are one: such models are left alone.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence

from torch import fx

from mhc_compile.passes.detect.links import Link, find_links
from mhc_compile.passes.detect.residuals import Candidate, Rejected
from mhc_compile.passes.graph.ancestry import REACHED, Ancestry, through_weight
from mhc_compile.passes.graph.contractions import terms_of
from mhc_compile.passes.graph.op_kinds import Kind, canonical_name
from mhc_compile.passes.graph.values import same_shape, shape_of
from mhc_compile.passes.plan.data import Dim
from mhc_compile.passes.plan.reasons import Reason


def foreign_adds(outer: Candidate, by_add: Mapping[int, Candidate], links: Mapping[int, Link]) -> set[int]:
    """Adds in the branch of `outer` that belong to a stream that starts elsewhere, however far back."""
    inside = outer.branch_nodes
    start = {outer.skip.base, *outer.skip.lifts}
    if outer.add in links:  # a norm in between is read by both levels
        start.add(links[outer.add].source)
    found: set[int] = set()
    for add in sorted(inside & by_add.keys()):
        base, link = by_add[add].skip.base, links.get(add)
        if base not in inside:
            is_foreign = base not in start
        else:
            is_foreign = link is not None and (link.source in found or link.source not in inside | start)
        if is_foreign:
            found.add(add)
    return found


def find_exchanges(graph: Ancestry, candidates: Sequence[Candidate]) -> dict[int, int]:
    """Adds of streams that exchange values, each with an add of the stream it exchanges them with."""
    by_add = {c.add: c for c in candidates}
    links = find_links(graph, candidates)
    tower: dict[int, int] = {}
    for c in candidates:
        tower[c.add] = tower[links[c.add].source] if c.add in links else c.add
    values: dict[int, set[int]] = {}  # of a tower: its adds, and the sum it starts from
    for c in candidates:
        start = {c.skip.base} if graph.kinds[c.skip.base] in (Kind.ADD, Kind.SUB) else set()
        values.setdefault(tower[c.add], set()).update(start | {c.add})
    found: dict[int, int] = {}
    for c in candidates:
        own = values[tower[c.add]]
        blind = {i for i in _partners(graph, c, by_add, links) if not _reads_itself(graph, by_add[i], own)}
        if blind:
            found[c.add] = min(blind)
            found.update((i, c.add) for i in blind if i not in found)
    for candidate in reversed(candidates):  # what such a stream starts with belongs to it
        for later in [by_add[add] for add in found]:
            if candidate.add == later.skip.base and candidate.add not in found:
                found[candidate.add] = later.add
    return found


def find_crossings(graph: Ancestry, found: Sequence[Candidate]) -> Iterator[Rejected]:
    """Single candidates that start inside the branch of an earlier one and end behind it.

    They hand what one layer has made for itself (values, scores, features) to a later layer, past the stream. A chain
    of such sums is a stream of its own, and stays.
    """
    links = find_links(graph, found)
    linked = links.keys() | {link.source for link in links.values()}
    kept: list[Candidate] = []
    for candidate in sorted(found, key=lambda c: (c.skip.base, c.add)):
        base, inside = candidate.skip.base, candidate.branch_nodes
        crossed = next((c for c in kept if base in c.branch_nodes and c.add in inside), None)
        if crossed is None or candidate.add in linked:
            kept.append(candidate)
        else:
            detail = f"starts inside the branch of the site at {graph.names[crossed.add]} and ends behind it"
            yield Rejected(candidate.total.adds, Reason.NESTED, detail)


def _partners(
    graph: Ancestry, candidate: Candidate, by_add: Mapping[int, Candidate], links: Mapping[int, Link]
) -> set[int]:
    """Adds of other streams without which the branch would not read its skip at all."""
    foreign = {i for i in foreign_adds(candidate, by_add, links) if _is_stream(graph, i, candidate)}
    return foreign if foreign and not _reads_itself(graph, candidate, foreign) else set()


def _is_stream(graph: Ancestry, foreign: int, candidate: Candidate) -> bool:
    """Whether the foreign add can be a stream beside this one: as large, and seen through a weight.

    A mask or a position added in every layer has the real sites in its branch, but is of another size than they are, or
    is added to them as they come.
    """
    return seen_through_weight(graph, foreign, candidate) and same_shape(
        graph.nodes[foreign], graph.nodes[candidate.add]
    )


def seen_through_weight(graph: Ancestry, inner: int, outer: Candidate) -> bool:
    """Whether all that `outer` adds sees an add in its branch through a weight, rather than as it is."""
    return all(through_weight(graph.reach(inner, b.node)) for b in outer.branches)


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


_MOST_STREAMS = 16


def find_own_streams(graph: Ancestry, found: Sequence[Candidate]) -> Iterator[Rejected]:
    """Candidates whose branch is written to several streams of the model's own, each with a factor of its own.

    However the model reads and mixes them, one value for all streams is multiplied with one number for each.
    """
    for candidate in found:
        count = max((_written_streams(graph, b.node) for b in candidate.branches), default=0)
        if count:
            yield Rejected(candidate.total.adds, Reason.MULTI_STREAM, f"written to {count} streams of the model's own")


def _written_streams(graph: Ancestry, i: int) -> int:
    """Over how many positions of an axis the last product spreads one value with a factor for each; 0 if it is none."""
    while graph.kinds[i] in (Kind.CAST, Kind.COPY, Kind.DROPOUT) and len(graph.inputs[i]) == 1:
        i = graph.inputs[i][0]
    node = graph.nodes[i]
    shapes = [s for s in map(shape_of, node.all_input_nodes) if s]
    if canonical_name(node) == "einsum":
        letters, result, operands = terms_of(node) or ([], "", [])
        if not all(letter in result for term in letters for letter in term):
            return 0
        shapes = [_spread(term, result, operand) for term, operand in zip(letters, operands, strict=False)]
    elif graph.kinds[i] is not Kind.SCALE:
        return 0
    return _outer(shapes, shape_of(node)) if len(shapes) == 2 else 0


def _spread(term: str, result: str, operand: fx.Node) -> tuple[Dim, ...]:
    """The shape of an operand of an einsum as it would be broadcast in a product."""
    sizes = dict(zip(term, shape_of(operand), strict=False))
    return tuple(sizes.get(letter, 1) for letter in result)


def _outer(shapes: Sequence[tuple[Dim, ...]], result: tuple[Dim, ...]) -> int:
    """The size of the axis along which only one factor differs, if the other one alone differs along another."""
    left, right = ((1,) * (len(result) - len(shape)) + tuple(shape) for shape in shapes)
    first = [s for s, a, b in zip(result, left, right, strict=False) if a == 1 and b == s != 1]
    second = [s for s, a, b in zip(result, left, right, strict=False) if b == 1 and a == s != 1]
    counts = [axes[0] for axes in (first, second) if len(axes) == 1 and isinstance(axes[0], int)]
    return min((c for c in counts if c <= _MOST_STREAMS), default=0) if first and second else 0
