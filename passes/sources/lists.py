"""Which sources every site and every readout reads: the list as it grows along a segment, written into the plan.

A source is named by the value that it was when it was kept. The newest of a list is not kept yet: it is the sum that
goes on. What is done to the stream between two sites is done to that sum; kept ones only follow where tokens move.
"""

from __future__ import annotations

from collections.abc import Collection, Iterator, Mapping, Sequence
from dataclasses import dataclass, replace

from torch import fx

from mhc_compile.config import Config
from mhc_compile.kernels.formulas.connections import find, parameter_count, parameter_shapes
from mhc_compile.passes.plan.data import Plan, Readout, Segment, Site
from mhc_compile.passes.sources.layers import layers_of

Lists = Mapping[str, tuple[str, ...]]


def keeps_sources(config: Config) -> bool:
    """Whether the state of the connection is a list of sources."""
    return find(config.effective_connection, config.streams).sources is not None


def with_sources(plan: Plan, nodes: Mapping[str, fx.Node], consumed: Collection[str], config: Config) -> Plan:
    """The plan with the sources of its sites and readouts, and with the parameters that follow from their number.

    Args:
        plan: the same without.
        nodes: of its graph, by name, in graph order.
        consumed: values that are read out for somebody who looks at the numbers; nothing can be learned for others.
        config: with a connection over sources; any other leaves the plan as it is.
    """
    row = find(config.effective_connection, config.streams).sources
    if row is None:
        return plan
    sites: dict[str, Site] = {}
    segments = []
    for segment in plan.segments:
        own = [plan.site(key) for key in segment.sites]
        begins = _begins(own, row.layers)
        lists = _Walk(nodes, segment, own, begins).lists()
        for site in own:
            sites[site.key] = _site(site, lists[site.base], begins[site.key], row.restarts, config)
        readouts = (_readout(readout, lists[readout.node], consumed, config) for readout in segment.readouts)
        segments.append(replace(segment, readouts=tuple(readouts)))
    return replace(plan, sites=tuple(sites[site.key] for site in plan.sites), segments=tuple(segments))


def path_of(segment: Segment, sites: Sequence[Site]) -> set[str]:
    """Names of the operators on the stream of a segment, those in front of its first write included."""
    return {*segment.lifts, *(name for site in sites for name in site.lifts)}


def on_stream(node: fx.Node, known: Collection[str], sides: Collection[tuple[str, str]]) -> fx.Node | None:
    """The operand of an operator on the stream that is the stream."""
    operands = (v for v in node.all_input_nodes if v.name in known and (node.name, v.name) not in sides)
    return next(operands, None)


def _begins(sites: Sequence[Site], layers: int) -> dict[str, bool]:
    """Site key -> whether it is the first of a block; `layers` as in `Sources`."""
    if not layers:
        return {site.key: True for site in sites}
    layer_of = layers_of(sites)
    number: dict[str, int] = {}  # of the layer of a site, counted along its path
    begins: dict[str, bool] = {}
    for site in sites:
        same = site.before in number and layer_of[site.before] == layer_of[site.key]
        number[site.key] = number.get(site.before, -1) + (not same)
        begins[site.key] = not same and number[site.key] % layers == 0
    return begins


@dataclass(frozen=True)
class _Walk:
    nodes: Mapping[str, fx.Node]
    segment: Segment
    sites: Sequence[Site]
    begins: Mapping[str, bool]

    def lists(self) -> Lists:
        """The list at every value on the stream, the sum that goes on last."""
        found: dict[str, tuple[str, ...]] = {self.segment.entry: (self.segment.entry,)}
        written, path = {site.add: site for site in self.sites}, path_of(self.segment, self.sites)
        for name, node in self.nodes.items():
            if name in written:
                found[name] = self._behind(written[name], found)
            elif name in path and (operand := on_stream(node, found, self.segment.sides)) is not None:
                found[name] = (*found[operand.name][:-1], name)
        return found

    def _behind(self, site: Site, found: Lists) -> tuple[str, ...]:
        before = found[site.skip]
        return (*(before if self.begins[site.key] else before[:-1]), site.add)


def _site(site: Site, here: tuple[str, ...], begins: bool, restarts: bool, config: Config) -> Site:
    sources = here if restarts or begins else here[-1:]
    shapes = parameter_shapes(config.effective_connection, len(sources), site.channels)
    return replace(site, sources=sources, begins_block=begins, parameters=parameter_count(shapes))


def _readout(readout: Readout, here: tuple[str, ...], consumed: Collection[str], config: Config) -> Readout:
    if readout.node not in consumed:
        return readout
    shapes = parameter_shapes(config.effective_connection, len(here), readout.channels)
    return replace(readout, sources=here, parameters=parameter_count(shapes))


def source_notes(plan: Plan) -> Iterator[str]:
    """What a plan says of the list: how long it grows, which is what is kept for the whole of a segment."""
    for segment in plan.segments:
        blocks = sum(plan.site(key).begins_block for key in segment.sites)
        if longest := plan.longest_list(segment):
            sites = len(segment.sites)
            yield f"segment {segment.index} keeps up to {longest} sources, of {sites} sites in {blocks} blocks"
