"""Rewrite a planned graph whose state is a list of sources.

Sources are values that the model computes anyway, so nothing is emitted for the state itself: adds stay. In front of
a branch stands the read of its sources. Behind a block the sum begins anew (`attention`), or it goes on from what was
read (`dense`). An operator that moves tokens is applied to every source in front of it.
"""

from __future__ import annotations

import operator
from collections.abc import Mapping, Sequence
from typing import Any

from torch import fx

from mhc_compile.config import Config
from mhc_compile.kernels.formulas.connections import find, parameter_shapes
from mhc_compile.kernels.operators.sources import begin_sum, read_sources
from mhc_compile.passes.graph.emitting import INHERITED_META, behind, describe, replace_inputs
from mhc_compile.passes.graph.gradients import is_switch, place_with_gradients
from mhc_compile.passes.graph.op_kinds import ELSEWHERE, Kind, kind_of
from mhc_compile.passes.graph.values import same_shape
from mhc_compile.passes.plan.data import OWNER, Plan, Readout, Segment, Site
from mhc_compile.passes.plan.keys import identifier
from mhc_compile.passes.sources.lists import on_stream, path_of

_VALUE_META = ("val", "example_value")


def rewrite_over_sources(gm: fx.GraphModule, plan: Plan, config: Config) -> fx.GraphModule:
    """Apply `plan` to the graph it was made from, in place; new parameters become `get_attr` nodes under `OWNER`.

    Their modules need not exist yet, so the graph is not linted here.
    """
    rewriter = _Rewriter(gm.graph, plan, config)
    for segment in plan.segments:
        rewriter.rewrite(segment)
    rewriter.finish()
    return gm


class _Rewriter:
    """Walks the original nodes of each segment in order.

    Attributes:
        held: value on the stream -> the sources there by name, their tokens where they are by then.
        nodes: by name.
        read: site key -> what its branch and skip have read instead of a value, for `dense`.
    """

    def __init__(self, graph: fx.Graph, plan: Plan, config: Config) -> None:
        self.graph, self.plan, self.connection = graph, plan, config.effective_connection
        row = find(self.connection, config.streams).sources
        assert row is not None
        self.restarts = row.restarts
        self.original = list(graph.nodes)
        self.order = {node.name: i for i, node in enumerate(self.original)}
        self.nodes = {node.name: node for node in self.original}
        self.switched = any(map(is_switch, self.original))
        self.carrying = {name for segment in plan.segments for name in segment.lifts}  # the stream, and no branch
        self.carrying |= {name for site in plan.sites for name in (*site.adds, *site.lifts)}
        self.held: dict[str, Mapping[str, fx.Node]] = {}
        self.read: dict[str, dict[fx.Node, fx.Node]] = {}
        self.last: dict[fx.Node, fx.Node] = {}  # last node emitted behind another, where the next one goes
        self.copies: dict[fx.Node, list[fx.Node]] = {}  # of operators on a stream
        self.stale: list[fx.Node] = []
        self.read_out: dict[fx.Node, dict[fx.Node, fx.Node]] = {}  # user -> what it uses -> the readout instead

    def rewrite(self, segment: Segment) -> None:
        """Everything but the erasure of what nobody uses any more."""
        sites = [self.plan.site(key) for key in segment.sites]
        written, path = {site.add: site for site in sites}, path_of(segment, sites)
        readers: dict[str, list[Site]] = {}
        for site in sites:
            for value in dict.fromkeys((site.base, *site.lifts)):
                readers.setdefault(value, []).append(site)
        self.held[segment.entry] = {segment.entry: self.nodes[segment.entry]}
        for node in self.original[self.order[segment.entry] :]:
            if node.name in written:
                self._close(written[node.name])
            elif node.name in path and (operand := on_stream(node, self.held, segment.sides)) is not None:
                self._pass(node, operand)
            for site in readers.get(node.name, ()):
                self._open(site, node.name)
        for readout in segment.readouts:
            self._read_out(readout)

    def finish(self) -> None:
        """Give users what is read out, once each: one output may collect a value of every layer."""
        for original, singles in self.read_out.items():
            for user in (original, *self.copies.get(original, ())):
                replace_inputs(user, singles)
        for node in sorted(self.stale, key=lambda n: self.order[n.name], reverse=True):
            if not node.users:
                self.graph.erase_node(node)

    def _pass(self, node: fx.Node, operand: fx.Node) -> None:
        """The list behind an operator on the stream: it is done to the sum, to kept sources where tokens move."""
        *kept, _ = self.held[operand.name].items()
        if kind_of(node) in ELSEWHERE | {Kind.POOL} or not same_shape(node, operand):
            kept = [(name, self._copy(node, {operand: source})) for name, source in kept]
        self.held[node.name] = {**dict(kept), node.name: node}

    def _copy(self, node: fx.Node, instead: Mapping[fx.Node, fx.Node]) -> fx.Node:
        with self.graph.inserting_before(behind(self.last.get(node, node))):
            copied = self.graph.node_copy(node, lambda n: instead.get(n, n))
        copied.meta = {k: v for k, v in node.meta.items() if k in (*INHERITED_META, *_VALUE_META)}
        self.last[node] = copied
        self.copies.setdefault(node, []).append(copied)
        return copied

    # --- sites ---------------------------------------------------------------------------------------------------

    def _open(self, site: Site, value: str) -> None:
        """What the branch reads at a value: the base, or what the skip was lifted to."""
        if len(site.sources) < 2:
            return
        node, instead = self.nodes[value], self.read.setdefault(site.key, {})
        readers = [u for u in node.users if u.name in site.branch_nodes - self.carrying]
        if self.restarts and not readers:
            return
        skip = [] if self.restarts else [u for u in node.users if u.name in (*site.adds, *site.lifts)]
        if self.restarts or value == site.base:
            instead[node] = self._emit_read(site, value, [*readers, *skip])
        else:
            instead[node] = self._copy(node, instead)
            self.stale.append(node)
        for user in (*readers, *(u for u in skip if u.name in site.adds)):
            user.replace_input_with(node, instead[node])

    def _emit_read(self, site: Site, value: str, users: Sequence[fx.Node]) -> fx.Node:
        place, channel_axis = self._place(value, users), site.base_axis if value == site.base else site.channel_axis
        sources = list(self.held[value].values())
        params = self._parameters(site.key, len(sources), site.channels, place)
        u = self._emit_call(place, params, sources, channel_axis)
        describe(u, self.nodes[site.add], f"{identifier(site.key)}_read")
        for node in (*params, u):
            node.meta["mhc"] = {"site": site.key, "role": "read"}
        return u

    def _close(self, site: Site) -> None:
        """The add: marked as what the site writes, and without its skip where the sum begins anew."""
        if self.restarts and site.begins_block:
            self._begin(site, self.nodes[site.skip])
        self.nodes[site.add].meta["mhc"] = {"site": site.key, "role": "write"}
        kept = dict(self.held[site.skip])
        if not site.begins_block:
            kept.popitem()
        self.held[site.add] = {**kept, site.add: self.nodes[site.add]}

    def _begin(self, site: Site, skip: fx.Node) -> None:
        """Let the add that holds the skip pass its other operand on; it keeps its name, and those around it stay."""
        add = next(n for n in map(self.nodes.__getitem__, site.adds) if skip in n.all_input_nodes)
        y = next(v for v in add.all_input_nodes if v is not skip)
        if kind_of(add) is Kind.SUB:
            with self.graph.inserting_before(add):
                y = self.graph.call_function(operator.neg, (y,))
            describe(y, add, f"{identifier(site.key)}_branch")
        add.op, add.target = "call_function", begin_sum
        add.args, add.kwargs = (skip, y), {}

    # --- reads ---------------------------------------------------------------------------------------------------

    def _read_out(self, readout: Readout) -> None:
        if len(readout.sources) < 2:
            return
        value = self.nodes[readout.node]
        users = [self.nodes[name] for name in readout.users]
        sources = list(self.held[readout.node].values())
        place = self._place(readout.node, [])
        params = self._parameters(readout.key, len(sources), readout.channels, place)
        single = self._emit_call(place, params, sources, readout.channel_axis)
        describe(single, value, identifier(readout.key))
        single.meta.update({k: v for k, v in value.meta.items() if k in _VALUE_META})
        for user in users:
            self.read_out.setdefault(user, {})[value] = single

    def _place(self, value: str, readers: Sequence[fx.Node]) -> fx.Node:
        """The value, or a node behind it where gradients are on again, as they are for the branch."""
        node, here = self.nodes[value], self.order[value]
        if not self.switched:
            return node
        first = min((self.order[u.name] for u in readers if u.name in self.order), default=here)
        found = place_with_gradients(self.original, here, first)
        return node if found is self.original[here] else found

    def _parameters(self, key: str, count: int, channels: int, place: fx.Node) -> list[fx.Node]:
        made = []
        for name in parameter_shapes(self.connection, count, channels):
            with self.graph.inserting_before(behind(self.last.get(place, place))):
                made.append(self.graph.create_node("get_attr", f"{OWNER}.{identifier(key)}.{name}"))
            self.last[place] = made[-1]
        return made

    def _emit_call(self, place: fx.Node, params: Sequence[fx.Node], sources: Sequence[fx.Node], axis: int) -> fx.Node:
        constants: dict[str, Any] = {"connection": self.connection, "axis": axis}
        with self.graph.inserting_before(behind(self.last.get(place, place))):
            call = self.graph.call_function(read_sources, (tuple(sources), tuple(params)), constants)
        self.last[place] = call
        return call
