"""Group sites into segments and find what every value on the streams is used for."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field

from torch import fx

from mhc_compile.passes.detect.links import Link, behind_sites, find_links, find_obstacle
from mhc_compile.passes.detect.residuals import Candidate
from mhc_compile.passes.graph.ancestry import Ancestry
from mhc_compile.passes.graph.op_kinds import ELSEWHERE, Kind, canonical_name, kind_of
from mhc_compile.passes.lift.lifting import is_linear


@dataclass
class Chain:
    """One segment while it is put together: positions of nodes.

    `lifts` are the ops applied to every stream; `readouts` maps a stream value to the users that need one tensor.
    `behind` is the op that keeps it apart from the segment before.
    `sides` are pairs of a lifted op and an operand off the stream path: one tensor even if it is a stream value itself.
    `before` maps the add of a site to that of the site whose streams it takes; `moved` are adds of sites in front of
    which tokens change places.
    """

    entry: int
    sites: list[Candidate] = field(default_factory=list)
    lifts: set[int] = field(default_factory=set)
    sides: set[tuple[int, int]] = field(default_factory=set)
    linear: bool = True
    readouts: dict[int, list[fx.Node]] = field(default_factory=dict)
    behind: int | None = None
    before: dict[int, int] = field(default_factory=dict)
    moved: set[int] = field(default_factory=set)


def build_chains(graph: Ancestry, candidates: Sequence[Candidate]) -> list[Chain]:
    """Segments of the kept candidates, in graph order."""
    links = find_links(graph, candidates)
    chain_of: dict[int, Chain] = {}
    chains: dict[int, Chain] = {}
    for candidate in candidates:
        link = links.get(candidate.add)
        chain = chain_of[link.source] if link else chains.setdefault(candidate.skip.base, Chain(candidate.skip.base))
        _append(graph, chain, candidate, link)
        chain_of[candidate.add] = chain
    below = behind_sites(graph, chain_of.keys())
    values = {i for chain in chains.values() for i in (*chain.lifts, *(s.add for s in chain.sites))}
    for chain in chains.values():
        chain.sides = {(lift, operand) for lift, operand in chain.sides if operand in values}
        chain.readouts = _find_readouts(graph, chain)
        chain.behind = find_obstacle(graph, chain.entry, below)
    return list(chains.values())


def _append(graph: Ancestry, chain: Chain, candidate: Candidate, link: Link | None) -> None:
    chain.sites.append(candidate)
    if link is None:
        return  # streams are still equal at the entry: what is done to the skip is done to one tensor
    path = {*link.path, *candidate.skip.lifts}
    on_stream = path | {link.source, candidate.skip.base}
    chain.linear &= all(is_linear(graph, i, on_stream) for i in path)
    chain.lifts |= path
    chain.before[candidate.add] = link.source
    chain.moved |= {candidate.add} if any(graph.kinds[i] in ELSEWHERE for i in path) else set()
    chain.sides |= {(i, j) for i in path for j in graph.inputs[i] if j not in on_stream}


def _find_readouts(graph: Ancestry, chain: Chain) -> dict[int, list[fx.Node]]:
    """For each stream value, the users that are neither on a stream nor in the branch of the site it feeds."""
    feeds = _feeds(chain)
    stream_uses = {graph.nodes[i] for i in chain.lifts} | {graph.nodes[i] for s in chain.sites for i in s.total.adds}
    readouts: dict[int, list[fx.Node]] = {}
    for i in sorted({s.add for s in chain.sites} | chain.lifts):
        sized = i not in chain.lifts or any(s.skip.base == i for s in feeds.get(i, ()))
        others = [
            user
            for user in graph.nodes[i].users
            if (graph.index[user], i) in chain.sides
            or not (_is_internal(graph, user, stream_uses, feeds.get(i, ())) or (sized and asks_size(user)))
        ]
        if others:
            readouts[i] = others
    return readouts


def _feeds(chain: Chain) -> Mapping[int, list[Candidate]]:
    """For each value, the sites whose branch may read it."""
    feeds: dict[int, list[Candidate]] = {}
    for site in chain.sites:
        for value in (site.skip.base, *site.skip.lifts):
            feeds.setdefault(value, []).append(site)
    return feeds


def _is_internal(graph: Ancestry, user: fx.Node, stream_uses: set[fx.Node], sites: Sequence[Candidate]) -> bool:
    if user in stream_uses:
        return True
    position = graph.index[user]
    return any(position in s.branch_nodes for s in sites)


def asks_size(user: fx.Node) -> bool:
    """Whether only the shape is asked for, which the branch output has too; dtypes may differ from it."""
    if user.target is getattr:
        return user.args[1] in ("shape", "ndim")
    return kind_of(user) is Kind.METADATA and canonical_name(user) in _SIZES


_SIZES = frozenset({"size", "sym_size", "shape", "dim", "ndim", "numel", "sym_numel"})
