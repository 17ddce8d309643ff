"""Turn candidates and chains into the plan: keys, channels, parameter counts, reasons, all as frozen data."""

from __future__ import annotations

from bisect import bisect_right
from collections.abc import Collection, Iterator, Mapping, Sequence
from dataclasses import replace

from torch import fx

from mhc_compile.config import Config
from mhc_compile.kernels.formulas.connections import (
    find,
    parameter_count,
    parameter_shapes,
    readout_shapes,
    why_not_kept,
)
from mhc_compile.passes.decide.describe import branch_summary, kind_label
from mhc_compile.passes.decide.fusions import plan_steps
from mhc_compile.passes.decide.recompute_notes import recompute_notes
from mhc_compile.passes.decide.single_pass import single_pass_notes
from mhc_compile.passes.detect.channels import axis_behind, axis_of_size
from mhc_compile.passes.detect.choice import Choice, choose, weights_of
from mhc_compile.passes.detect.residuals import Candidate, Rejected
from mhc_compile.passes.detect.segments import Chain, asks_size, build_chains
from mhc_compile.passes.graph.ancestry import Ancestry
from mhc_compile.passes.graph.gradients import notes as gradient_notes
from mhc_compile.passes.graph.op_kinds import MOVING
from mhc_compile.passes.graph.subgraphs import hidden_adds
from mhc_compile.passes.graph.sums import is_float_add
from mhc_compile.passes.graph.values import dtype_of, location_of, module_path_of, shape_of
from mhc_compile.passes.plan.data import Plan, Readout, Rejection, Segment, Site
from mhc_compile.passes.plan.keys import Known, unique
from mhc_compile.passes.plan.reasons import Reason
from mhc_compile.passes.sources.lists import source_notes, with_sources


def plan_graph(graph: Ancestry, config: Config, taken: Collection[str] = (), known: Known = ()) -> Plan:
    """Detect, choose and describe everything `rewrite` will do to the graph; `taken` and `known` as in `choose`.

    Raises:
        PatternError: an `include` or `exclude` glob matches no site.
    """
    choice = choose(graph, config, taken, known)
    chains, short = _long_enough(graph, choice.sites, config.min_sites)
    return _assemble(graph, config, chains, choice, sorted([*choice.rejected, *short], key=lambda r: r.add))


def _long_enough(graph: Ancestry, kept: Sequence[Candidate], min_sites: int) -> tuple[list[Chain], list[Rejected]]:
    chains = build_chains(graph, kept)
    short = [c for c in chains if len(c.sites) < min_sites]
    rejected = [Rejected(s.total.adds, Reason.MIN_SITES, f"segment of {len(c.sites)}") for c in short for s in c.sites]
    return [c for c in chains if len(c.sites) >= min_sites], rejected


def _assemble(
    graph: Ancestry,
    config: Config,
    chains: Sequence[Chain],
    choice: Choice,
    rejections: Sequence[Rejected],
) -> Plan:
    sites = {s.add: _site(graph, config, s, choice, chain) for chain in chains for s in chain.sites}
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
    consumed = {r.node for s in segments for r in s.readouts if _is_consumed(graph, [by_name[u] for u in r.users])}
    plan = with_sources(plan, by_name, consumed, config)
    return replace(plan, notes=tuple(_notes(plan, by_name, config)))


def _notes(plan: Plan, by_name: Mapping[str, fx.Node], config: Config) -> Iterator[str]:
    yield from recompute_notes(plan, by_name, config)
    yield from gradient_notes(plan, by_name)
    if find(config.effective_connection, config.streams).single_pass:
        yield from single_pass_notes(plan, by_name, config.reduce)
    yield from source_notes(plan)
    why = why_not_kept(config.effective_connection, config.streams)
    if why and config.init == "preserve" and plan.sites:
        yield f"the function of the model is not kept in general: {why}"


def _site(graph: Ancestry, config: Config, site: Candidate, choice: Choice, chain: Chain) -> Site:
    node, channels = graph.nodes[site.add], choice.channels[site.add]
    names, count = graph.names, channels.count
    return Site(
        key=choice.keys[site.add],
        former=choice.former_key(site.add),
        before=choice.keys[chain.before[site.add]] if site.add in chain.before else "",
        moves_tokens=site.add in chain.moved,
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
        weights=tuple(dict.fromkeys(weight for _, weight in weights_of(graph, site))),
        told_by=choice.told_by.get(site.add, ""),
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
