"""Decide which steps of neighbouring sites become one kernel. Nothing is changed here; `fuse.py` carries it out."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass

from torch import fx

from mhc_compile.config import Config
from mhc_compile.kernels.formulas.connections import find
from mhc_compile.passes.detect.segments import asks_size
from mhc_compile.passes.graph.checkpointed import META as CHECKPOINT
from mhc_compile.passes.graph.gradients import gradient_modes
from mhc_compile.passes.graph.op_kinds import canonical_name
from mhc_compile.passes.plan.data import Readout, Segment, Site
from mhc_compile.passes.plan.steps import Step, StepKind, Unfused

Why = tuple[Unfused, str]


def plan_steps(
    nodes: Mapping[str, fx.Node], sites: Mapping[str, Site], segments: Sequence[Segment], config: Config
) -> tuple[Step, ...]:
    """The kernels of every segment, in graph order.

    Args:
        nodes: the normalised graph, by name.
        sites: by key.
        segments: of the same plan.
        config: connection and reduce decide.
    """
    return tuple(step for segment in segments for step in _Segment.of(nodes, sites, segment, config).steps())


@dataclass(frozen=True)
class _Segment:
    nodes: Mapping[str, fx.Node]
    sites: tuple[Site, ...]
    segment: Segment
    config: Config
    plain: Mapping[str, Why]  # sites that run in plain PyTorch
    apart: Mapping[str, Why]  # packed sites whose gate is not part of the write before
    before: Mapping[str, Site]  # packed site -> the site whose write its gate is part of

    @classmethod
    def of(cls, nodes: Mapping[str, fx.Node], sites: Mapping[str, Site], segment: Segment, config: Config) -> _Segment:
        own = tuple(sites[key] for key in segment.sites)
        plain = {s.key: why for s in own if (why := _why_plain(nodes, s, config)) is not None}
        apart: dict[str, Why] = {}
        before: dict[str, Site] = {}
        by_add = {s.add: s for s in own}
        taken: set[str] = set()
        modes = gradient_modes(nodes.values())
        for site in own:
            if site.key in plain or site.base == segment.entry:
                continue
            source = by_add.get(site.base)
            why = _why_apart(nodes, site, source, plain, taken)
            if why is None and source is not None and modes[nodes[site.add]] != modes[nodes[source.add]]:
                why = Unfused.GRADIENTS, ""
            if why is not None:
                apart[site.key] = why
            elif source is not None:
                before[site.key] = source
                taken.add(source.key)
        return cls(nodes, own, segment, config, plain, apart, before)

    def steps(self) -> Iterator[Step]:
        followed = {site.key for site in self.before.values()}
        for site in self.sites:
            if site.key in self.plain:
                yield Step(StepKind.PLAIN, site.key, site.key, *self.plain[site.key])
                continue
            yield self._gate(site)
            if site.key not in followed:
                yield self._write(site)

    def _gate(self, site: Site) -> Step:
        if site.key in self.before:
            return Step(StepKind.BOUNDARY, self.before[site.key].key, site.key)
        if site.key in self.apart:
            return Step(StepKind.GATE, "", site.key, *self.apart[site.key])
        return Step(StepKind.ENTRY, "", site.key)

    def _write(self, site: Site) -> Step:
        lifts = [u for u in self.nodes[site.add].users if u.name in self.segment.lifts]
        readout = next((r for r in self.segment.readouts if r.node == site.add), None)
        readers = [s for s in self.sites if site.add in (s.base, s.skip)]
        if lifts:
            return Step(StepKind.WRITE, site.key, "", Unfused.LIFTED, canonical_name(lifts[0]))
        if readers:
            reason, detail = self.apart.get(readers[0].key, (Unfused.NEIGHBOUR, readers[0].key))
            return Step(StepKind.WRITE, site.key, "", reason, detail)
        if readout is None or is_learned(readout, self.config):
            return Step(StepKind.WRITE, site.key, "", Unfused.LEARNED)
        return Step(StepKind.LEAVE, site.key, "")


def is_learned(readout: Readout, config: Config) -> bool:
    """Whether a readout has parameters; one whose value nobody uses takes the mean."""
    return config.reduce == "learned" and readout.parameters > 0


def _why_plain(nodes: Mapping[str, fx.Node], site: Site, config: Config) -> Why | None:
    if find(config.effective_connection, config.streams).manifold is None:
        return Unfused.CONNECTION, config.effective_connection
    if site.moves_axes or site.base_axis != site.channel_axis:
        return Unfused.MOVED_AXES, ""
    for lift in site.lifts:
        own = {*site.adds, *site.lifts}
        users = [u for u in nodes[lift].users if u.name not in own]
        if any(u.name in site.branch_nodes or asks_size(u) for u in users):
            return Unfused.SCATTERED, lift
    return None


def _why_apart(
    nodes: Mapping[str, fx.Node], site: Site, source: Site | None, plain: Mapping[str, Why], taken: set[str]
) -> Why | None:
    if source is None:
        return Unfused.LIFTED, canonical_name(nodes[site.base])
    if source.key in plain:
        return Unfused.NEIGHBOUR, source.key
    if source.key in taken:
        return Unfused.SHARED, source.key
    if site.base_axis != source.channel_axis:
        return Unfused.AXES, ""
    if nodes[site.add].meta.get(CHECKPOINT) != nodes[source.add].meta.get(CHECKPOINT):
        return Unfused.CHECKPOINT, ""
    return None
