"""Sums that look like long residuals and are none: biases, injections, merges by a mask, sums of weights.

Each of them would swallow every site between the value it starts from and itself. What comes here has a skip already:
a sum that has none, whatever it looks like, gets its reason in `skips.py`.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from itertools import pairwise, product

from torch import fx

from mhc_compile.passes.detect.links import find_link, find_links
from mhc_compile.passes.detect.residuals import Candidate, Rejected
from mhc_compile.passes.detect.skips import PLAIN, sums_with
from mhc_compile.passes.graph.ancestry import Ancestry
from mhc_compile.passes.graph.op_kinds import Kind, canonical_name
from mhc_compile.passes.plan.reasons import Reason

_OFTEN = 2  # a value that comes back once is a long skip around what lies between
_NEGATIONS = frozenset({"logical_not", "bitwise_not", "invert", "__invert__"})
_PRODUCTS = 2  # of masks, as of what is known and what is left out


def find_injections(graph: Ancestry, found: Sequence[Candidate]) -> Iterator[Rejected]:
    """Candidates whose skip is added more than once to a stream that leads from one such sum to the next."""
    by_base: dict[int, list[Candidate]] = {}
    for candidate in found:
        by_base.setdefault(candidate.skip.base, []).append(candidate)
    for base, group in by_base.items():
        if len(group) < _OFTEN:
            continue
        onto = [c for c in group if _adds_to_a_stream(graph, c, {o.add: o for o in found if o is not c})]
        if len(onto) >= _OFTEN and all(graph.reach(a.add, b.add) for a, b in pairwise(onto)):
            for candidate in onto:
                yield Rejected(
                    candidate.total.adds, Reason.INJECTED, f"{graph.names[base]} is added in layer after layer"
                )


def _adds_to_a_stream(graph: Ancestry, candidate: Candidate, sites: Mapping[int, Candidate]) -> bool:
    """Whether the branch ends in a site of its own, with nothing behind it that streams could not pass."""
    if len(candidate.branches) != 1:
        return False
    inside = {add: c for add, c in sites.items() if add in candidate.branch_nodes}
    return bool(inside) and find_link(graph, candidate.branches[0].node, inside) is not None


def find_collections(graph: Ancestry, found: Sequence[Candidate]) -> Iterator[Rejected]:
    """Sums of three or more states of one stream, such as the mean of the last four layers: a readout, and no site.

    Where those of all layers so far are summed up again and again, the first such sum is of two states only.
    """
    by_add = {c.add: c for c in found}
    states = {c.add: [_state(graph, branch.node) for branch in c.branches] for c in found}
    of_one = [c for c in found if _come_from(by_add, states[c.add], c.skip.base)]
    families = [{c.skip.base, *states[c.add]} for c in of_one if len(states[c.add]) > 1]
    for candidate in of_one:
        base, summed = candidate.skip.base, states[candidate.add]
        if any(family >= {base, *summed} for family in families):
            yield Rejected(
                candidate.total.adds, Reason.COLLECTED, f"{len(summed) + 1} states from {graph.names[base]} on"
            )


def _state(graph: Ancestry, i: int) -> int:
    while graph.kinds[i] in PLAIN | {Kind.SCALE} and len(graph.inputs[i]) == 1:
        i = graph.inputs[i][0]
    return i


def _come_from(by_add: Mapping[int, Candidate], states: Sequence[int], base: int) -> bool:
    """Whether sums continue the stream that had `base` for a value, one site after the other."""
    known = {base}
    for state in sorted(states):
        way = set()
        while state in by_add and state not in known:
            way.add(state)
            state = by_add[state].skip.base
        if state not in known:
            return False
        known |= way
    return True


def find_biases(graph: Ancestry, found: Sequence[Candidate]) -> Iterator[Rejected]:
    """Candidates whose skip is added to other values as well, and is seen by the branch through those sums alone.

    A position, a mask or a learned bias that is added in every layer: each sum is read, and the next one begins with
    the same value again. A stream is rewritten: what reads it next reads the last sum, be it of learned queries.
    """
    links = find_links(graph, found)
    continued = {link.source for link in links.values()}
    for candidate in found:
        base = candidate.skip.base
        if candidate.add in links or not _is_bias(graph, candidate):
            continue
        onto = {c.add: c for c in found if c.skip.base != base}
        is_last_word = candidate.add not in continued or _adds_to_a_stream(graph, candidate, onto)
        if is_last_word and (not graph.from_input[base] or not candidate.branch_nodes.isdisjoint(onto)):
            yield Rejected(candidate.total.adds, Reason.INJECTED, f"{graph.names[base]} is added in every layer")


def _is_bias(graph: Ancestry, candidate: Candidate) -> bool:
    """Whether the branch reads the base through nothing but other sums that add it to data not computed from it."""
    base, last = candidate.skip.base, candidate.add
    sums = {i for i in sums_with(graph, base) if i < last} - {*candidate.total.adds}
    if not sums:
        return False
    flow = {base}
    for i in range(base + 1, last):
        above = [j for j in graph.inputs[i] if j in flow]
        given = [j for j in graph.inputs[i] if j not in flow]
        if above and not (i in sums and any(graph.from_input[j] for j in given)):
            flow.add(i)
    return not any(branch.node in flow for branch in candidate.branches)


def find_merges(graph: Ancestry, found: Sequence[Candidate]) -> Iterator[Rejected]:
    """Candidates `mask * f(x) + (1 - mask) * x`: where the mask is 1 there is no skip at all."""
    for candidate in found:
        mask = _mask(graph, candidate)
        if mask is not None:
            yield Rejected(candidate.total.adds, Reason.MERGE, f"by {mask.name}")


def _mask(graph: Ancestry, candidate: Candidate) -> fx.Node | None:
    """What both terms are multiplied with, once as it is and once negated, if it is data."""
    if len(candidate.branches) != 1:
        return None
    branch, skip = candidate.branches[0].node, candidate.skip.operand
    ours, theirs = ([*_factors(graph, i)] for i in (branch, skip))
    for plain, other in [*product(ours, theirs), *product(theirs, ours)]:
        if _alike(_negated(graph, other), plain) and graph.from_input[graph.index[plain]]:
            return plain
    return _interpolated(graph, ours, skip)


def _interpolated(graph: Ancestry, factors: Sequence[fx.Node], skip: int) -> fx.Node | None:
    """The mask of `x + mask * (f(x) - x)`, which is how `lerp` is spelled out."""
    for difference in factors:
        is_step = graph.kinds[graph.index[difference]] is Kind.SUB and difference.args[1:2] == (graph.nodes[skip],)
        for mask in factors if is_step else ():
            if mask is not difference and graph.from_input[graph.index[mask]]:
                return None if graph.reach(skip, graph.index[mask]) else mask
    return None


def _factors(graph: Ancestry, i: int, depth: int = _PRODUCTS) -> Iterator[fx.Node]:
    """What a term is multiplied with: the root of each operand of the products at its end, a mask may be one of two."""
    while graph.kinds[i] in PLAIN and len(graph.inputs[i]) == 1:
        i = graph.inputs[i][0]
    if graph.kinds[i] is Kind.SCALE and depth:
        for operand in graph.nodes[i].all_input_nodes:
            root = _root(graph, operand)
            yield root
            yield from _factors(graph, graph.index[root], depth - 1)


def _root(graph: Ancestry, node: fx.Node) -> fx.Node:
    """The value before views, casts and indices that only add an axis."""
    while graph.kinds[graph.index[node]] in PLAIN | {Kind.SELECT} and node.all_input_nodes:
        if graph.kinds[graph.index[node]] is Kind.SELECT and not _only_adds_axes(node):
            break
        node = node.all_input_nodes[0]  # a cast may also ask another value for its dtype
    return node


def _alike(a: fx.Node | None, b: fx.Node) -> bool:
    """Whether two nodes are one, or compute the same from the same."""
    return a is b or (a is not None and a.op == b.op != "placeholder" and (a.target, a.args) == (b.target, b.args))


def _only_adds_axes(node: fx.Node) -> bool:
    index = node.args[1] if canonical_name(node) == "getitem" else ()
    parts = index if isinstance(index, tuple) else (index,)
    return bool(parts) and all(part is None or part is Ellipsis or part == slice(None) for part in parts)


def _negated(graph: Ancestry, node: fx.Node) -> fx.Node | None:
    """The root of `m` where the node is `1 - m` or `~m`, None where it is something else."""
    name = canonical_name(node)
    operands = node.all_input_nodes
    if len(operands) != 1 or not (name in _NEGATIONS or graph.kinds[graph.index[node]] is Kind.SUB):
        return None
    minuend = node.args[0] if node.args else None
    return _root(graph, operands[0]) if name in _NEGATIONS or minuend == 1 else None


def find_constants(graph: Ancestry, found: Sequence[Candidate]) -> Iterator[Rejected]:
    """Candidates that no input of the model reaches, unless a stream of data starts there (learned queries)."""
    if all(graph.from_input[c.add] for c in found):
        return
    links = find_links(graph, found)
    carries: set[int] = set()
    for candidate in reversed(found):
        if candidate.add in links and (graph.from_input[candidate.add] or candidate.add in carries):
            carries.add(links[candidate.add].source)
    for candidate in found:
        if not graph.from_input[candidate.add] and candidate.add not in carries:
            yield Rejected(candidate.total.adds, Reason.INPUT_INDEPENDENT, "a sum of weights")
