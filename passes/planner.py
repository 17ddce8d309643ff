"""Turn candidates and chains into the plan: keys, channels, parameter counts, reasons, all as frozen data."""

from __future__ import annotations

from bisect import bisect_right
from collections.abc import Callable, Collection, Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from functools import partial

from torch import fx

from mhc_compile.config import Config
from mhc_compile.errors import PatternError
from mhc_compile.kernels.connections import parameter_count, parameter_shapes, readout_shapes
from mhc_compile.passes.ancestry import Ancestry
from mhc_compile.passes.chains import company, resolve_nesting
from mhc_compile.passes.channels import Channels, axis_behind, axis_of_size, find_channels
from mhc_compile.passes.describe import branch_summary, kind_label
from mhc_compile.passes.fusions import plan_steps
from mhc_compile.passes.gradients import notes as gradient_notes
from mhc_compile.passes.injections import find_constants, find_injections, find_merges
from mhc_compile.passes.keys import Known, Owner, former_keys, keys_of, module_of, unique
from mhc_compile.passes.op_kinds import MOVING
from mhc_compile.passes.patterns import is_chosen, unmatched
from mhc_compile.passes.plan import Plan, Readout, Reason, Rejection, Segment, Site
from mhc_compile.passes.recompute import notes as recompute_notes
from mhc_compile.passes.residuals import Candidate, Rejected, find_mixers, find_residuals
from mhc_compile.passes.segments import Chain, asks_size, build_chains
from mhc_compile.passes.subgraphs import hidden_adds
from mhc_compile.passes.sums import is_float_add
from mhc_compile.passes.towers import find_exchanges, find_own_streams
from mhc_compile.passes.values import dtype_of, location_of, module_path_of, shape_of


@dataclass(frozen=True)
class Keys:
    """The key of each site by the position of its add, and the one it had before keys belonged to weights."""

    now: Mapping[int, str]
    former: Mapping[int, str]

    def former_of(self, add: int) -> str:
        """The former key, "" where it is still the same."""
        former = self.former.get(add, "")
        return "" if former == self.now[add] else former


def plan_graph(graph: Ancestry, config: Config, taken: Collection[str] = (), known: Known = ()) -> Plan:
    """Detect, choose and describe everything `rewrite` will do to the graph.

    Keys in `taken` belong to other graphs of the same model, those in `known` to the same weights in other traces.

    Raises:
        PatternError: an `include` or `exclude` glob matches no site.
    """
    found, rejected = find_residuals(graph)
    found, foreign = _without_look_alikes(graph, found)
    found, channels, unclear = _with_channels(graph, found)
    owners = {c.add: _owner(graph, c) for c in found}
    name = partial(_name, owners=owners, taken=taken, known=known)
    kept, keys, left_out = _choose(graph, found, config, name, {add: c.axis for add, c in channels.items()})
    kept, keys, channels, mixers = _with_mixers(graph, kept, keys, channels, find_mixers(graph, rejected))
    rejected = [r for r in rejected if r.add not in mixers]
    chains, short = _long_enough(graph, kept, config.min_sites)
    rejections = sorted([*rejected, *foreign, *unclear, *left_out, *short], key=lambda r: r.add)
    owned = [add for add in keys if add in owners]
    former = dict(zip(owned, former_keys([owners[add] for add in owned]), strict=True))
    return _assemble(graph, config, chains, Keys(keys, former), channels, rejections)


def _name(
    candidates: Sequence[Candidate], owners: Mapping[int, Owner], taken: Collection[str], known: Known
) -> dict[int, str]:
    adds = sorted(c.add for c in candidates)
    return dict(zip(adds, keys_of([owners[add] for add in adds], taken, known), strict=True))


def _without_look_alikes(graph: Ancestry, found: list[Candidate]) -> tuple[list[Candidate], list[Rejected]]:
    """Drop what would swallow sites without being one, step by step: each changes what follows what."""
    dropped: list[Rejected] = []
    for look in (find_merges, find_own_streams, find_injections, find_constants, _exchanges):
        rejected = list(look(graph, found))
        dropped += rejected
        gone = {r.add for r in rejected}
        found = [c for c in found if c.add not in gone]
    return found, dropped


def _exchanges(graph: Ancestry, found: Sequence[Candidate]) -> Iterator[Rejected]:
    partners = find_exchanges(graph, found)
    for c in found:
        if c.add in partners:
            detail = f"exchanges values with the one of {graph.names[partners[c.add]]}"
            yield Rejected(c.total.adds, Reason.MULTI_STREAM, detail)


def _with_channels(
    graph: Ancestry, found: list[Candidate]
) -> tuple[list[Candidate], dict[int, Channels], list[Rejected]]:
    """What has no channels is no candidate, so it displaces none either."""
    channels = find_channels(graph, found)
    sized = {add: known for add, known in channels.items() if isinstance(known, Channels)}
    return [c for c in found if c.add in sized], sized, [r for r in channels.values() if isinstance(r, Rejected)]


def _choose(
    graph: Ancestry,
    found: list[Candidate],
    config: Config,
    name: Callable[[Sequence[Candidate]], dict[int, str]],
    channel_axes: Mapping[int, int],
) -> tuple[list[Candidate], dict[int, str], list[Rejected]]:
    """Resolve nesting and carry out `include` and `exclude`; what a site left out displaced comes back.

    Raises:
        PatternError: an `include` or `exclude` glob matches no site.
    """
    left_out: dict[int, Candidate] = {}
    while True:
        rest = [c for c in found if c.add not in left_out]
        kept, nested = resolve_nesting(graph, rest, config.nested, channel_axes)
        keys = name([*kept, *left_out.values()])
        unwanted = {c.add: c for c in kept if not is_chosen(keys[c.add], config)}
        if not unwanted:
            break
        left_out |= unwanted
    problem = unmatched(config, list(keys.values()))
    if problem:
        raise PatternError(problem)
    rejected = [Rejected(c.total.adds, Reason.EXCLUDED, keys[c.add]) for c in left_out.values()]
    by_add = {c.add: c for c in found}
    return kept, keys, rejected + [_nested(graph, by_add[loser], winner) for loser, winner in nested.items()]


def _with_mixers(
    graph: Ancestry,
    kept: list[Candidate],
    keys: dict[int, str],
    channels: dict[int, Channels],
    mixers: Sequence[Candidate],
) -> tuple[list[Candidate], dict[int, str], dict[int, Channels], set[int]]:
    """Add the sums without a weight that lie on a stream between sites, named after the site they lie beside."""
    beside = company(graph, kept, mixers)
    if not beside:
        return kept, keys, channels, set()
    both = sorted([*kept, *(m for m in mixers if m.add in beside)], key=lambda c: c.add)
    sized = {add: found for add, found in find_channels(graph, both).items() if isinstance(found, Channels)}
    joined = [m for m in both if m.weightless and m.add in sized]
    names = unique([f"{module_path_of(graph.nodes[m.add]) or keys[beside[m.add]]}.mixer" for m in joined])
    keys = {**keys, **{m.add: name for m, name in zip(joined, names, strict=True)}}
    sizes = {m.add: sized[m.add] for m in joined}
    return [c for c in both if not c.weightless or c.add in sized], keys, {**channels, **sizes}, set(sizes)


def _nested(graph: Ancestry, loser: Candidate, winner: Candidate) -> Rejected:
    detail = f"conflicts with the site at {graph.nodes[winner.add].name}"
    return Rejected(loser.total.adds, Reason.NESTED, detail)


def _owner(graph: Ancestry, candidate: Candidate) -> Owner:
    weights: dict[str, str] = {}
    for i, weight in _weights(graph, candidate):
        weights.setdefault(weight, module_of(weight, is_module=graph.nodes[i].op == "call_module"))
    return Owner(tuple(weights), tuple(weights.values()), module_path_of(graph.nodes[candidate.add]))


def _weights(graph: Ancestry, candidate: Candidate) -> list[tuple[int, str]]:
    """The weights of the branch with the positions of the nodes that contract with them."""
    stream = candidate.branch_nodes | {candidate.skip.base}
    return [(i, w) for i in sorted(candidate.branch_nodes) for w in graph.weights_beside(i, stream)]


def _long_enough(graph: Ancestry, kept: Sequence[Candidate], min_sites: int) -> tuple[list[Chain], list[Rejected]]:
    chains = build_chains(graph, kept)
    short = [c for c in chains if len(c.sites) < min_sites]
    rejected = [Rejected(s.total.adds, Reason.MIN_SITES, f"segment of {len(c.sites)}") for c in short for s in c.sites]
    return [c for c in chains if len(c.sites) >= min_sites], rejected


def _assemble(
    graph: Ancestry,
    config: Config,
    chains: Sequence[Chain],
    keys: Keys,
    channels: Mapping[int, Channels],
    rejections: Sequence[Rejected],
) -> Plan:
    sites = {s.add: _site(graph, config, s, keys, channels[s.add]) for chain in chains for s in chain.sites}
    segments = tuple(_segment(graph, config, i, chain, sites) for i, chain in enumerate(chains))
    hidden = hidden_adds(graph)
    rejected = sorted([*((r.add, _rejection(graph, r)) for r in rejections), *hidden], key=lambda r: r[0])
    by_name = {node.name: node for node in graph.nodes}
    plan = Plan(
        n=config.streams,
        connection=config.effective_connection,
        init=config.init,
        reduce=config.reduce,
        sites=tuple(sites[add] for add in sorted(sites)),
        rejected=tuple(r for _, r in rejected),
        segments=segments,
        float_adds=sum(is_float_add(graph, i) for i in range(len(graph.nodes))) + len(hidden),
        nodes=len(graph.nodes),
        steps=plan_steps(by_name, {s.key: s for s in sites.values()}, segments, config),
    )
    return replace(plan, notes=(*recompute_notes(plan, by_name, config), *gradient_notes(plan, by_name)))


def _site(graph: Ancestry, config: Config, site: Candidate, keys: Keys, channels: Channels) -> Site:
    node = graph.nodes[site.add]
    names, count = graph.names, channels.count
    return Site(
        key=keys.now[site.add],
        former=keys.former_of(site.add),
        add=names[site.add],
        adds=tuple(names[i] for i in site.total.adds),
        skip=names[site.skip.operand],
        base=names[site.skip.base],
        lifts=tuple(names[i] for i in site.skip.lifts),
        moves_axes=any(graph.kinds[i] in MOVING for i in site.skip.lifts),
        branches=tuple(names[b.node] for b in site.branches),
        negated=tuple(names[b.node] for b in site.branches if b.negated),
        kind=kind_label(graph, site),
        shape=shape_of(node),
        dtype=str(dtype_of(node)).removeprefix("torch."),
        channel_axis=channels.axis,
        base_axis=channels.base_axis,
        channels=count,
        branch_nodes=frozenset(names[i] for i in site.branch_nodes),
        size_users=tuple(user.name for user in node.users if asks_size(user)),
        branch_summary=branch_summary(graph, site),
        weights=tuple(dict.fromkeys(weight for _, weight in _weights(graph, site))),
        module=module_path_of(node),
        location=location_of(node),
        parameters=parameter_count(parameter_shapes(config.effective_connection, config.streams, count)),
    )


def _segment(graph: Ancestry, config: Config, index: int, chain: Chain, sites: Mapping[int, Site]) -> Segment:
    own = [sites[s.add] for s in chain.sites]
    before = [_site_before(chain, i) for i in chain.readouts]
    names = unique([f"{sites[add].key}.readout" for add in before])
    former = unique([f"{sites[add].former or sites[add].key}.readout" for add in before])
    found = zip(names, former, before, chain.readouts.items(), strict=True)
    readouts = tuple(
        replace(_readout(graph, config, key, i, add, sites[add], users), former=old if old != key else "")
        for key, old, add, (i, users) in found
    )
    return Segment(
        index=index,
        entry=graph.nodes[chain.entry].name,
        sites=tuple(s.key for s in own),
        lifts=tuple(graph.nodes[i].name for i in sorted(chain.lifts)),
        readouts=readouts,
        linear=chain.linear,
        sides=tuple((graph.names[i], graph.names[j]) for i, j in sorted(chain.sides)),
        behind="" if chain.behind is None else graph.names[chain.behind],
    )


def _site_before(chain: Chain, i: int) -> int:
    """The add of the last site before a stream value: a readout is named after it and has its channels."""
    return chain.sites[bisect_right(chain.sites, i, key=lambda s: s.add) - 1].add


def _readout(
    graph: Ancestry, config: Config, key: str, i: int, add: int, site: Site, users: Sequence[fx.Node]
) -> Readout:
    node, moved = graph.nodes[i], axis_behind(graph, add, site.channel_axis, i)
    axis, channels = axis_of_size(graph, i, moved, site.channels)
    shapes = readout_shapes(config.reduce, config.streams, channels) if _is_consumed(graph, users) else {}
    return Readout(key, node.name, tuple(u.name for u in users), axis, channels, parameter_count(shapes))


def _is_consumed(graph: Ancestry, users: Sequence[fx.Node]) -> bool:
    """Whether the numbers matter to anybody: dead code and questions for the dtype would teach a readout nothing."""
    return any(graph.live[graph.index[u]] for u in users)


def _rejection(graph: Ancestry, rejected: Rejected) -> Rejection:
    node = graph.nodes[rejected.add]
    return Rejection(
        add=node.name,
        adds=tuple(graph.nodes[i].name for i in rejected.adds),
        reason=rejected.reason,
        detail=rejected.detail,
        shape=shape_of(node),
        module=module_path_of(node),
        location=location_of(node),
    )
