"""Rewrite a planned graph: entry, then (coefficients, read, branch, write) per site, then readouts.

The plan says everything; this pass only emits calls. A branch keeps its own nodes and reads `u` where it read the
residual stream. Node `v` of the original graph has a streamed twin once the pass has gone by it.
"""

from __future__ import annotations

import operator
from collections.abc import Callable
from typing import Any

from torch import fx

from mhc_compile.config import Config
from mhc_compile.kernels.formulas.connections import find, parameter_shapes, readout_eps, readout_shapes
from mhc_compile.kernels.operators import streams as kernels
from mhc_compile.kernels.operators.single_pass import weights_like
from mhc_compile.passes.decide.single_pass import authors
from mhc_compile.passes.detect.segments import asks_size
from mhc_compile.passes.graph.emitting import behind, describe, replace_inputs
from mhc_compile.passes.graph.gradients import is_switch, place_with_gradients
from mhc_compile.passes.graph.values import STREAMS_OF, example_of, value_of
from mhc_compile.passes.lift.lifting import lift
from mhc_compile.passes.plan.data import OWNER, Plan, Readout, Site
from mhc_compile.passes.plan.keys import identifier


def rewrite_planned(gm: fx.GraphModule, plan: Plan, config: Config) -> fx.GraphModule:
    """Apply `plan` to the graph it was made from, in place; new parameters become `get_attr` nodes under `OWNER`.

    Their modules need not exist yet, so the graph is not linted here.
    """
    _Rewriter(gm.graph, plan, config).run()
    return gm


class _Rewriter:
    """Walks the original nodes in order. `streams[v]` is the streamed twin of node `v`; an entry has none yet."""

    def __init__(self, graph: fx.Graph, plan: Plan, config: Config) -> None:
        self.graph, self.plan, self.config = graph, plan, config
        self.original = list(graph.nodes)
        self.switched = any(map(is_switch, self.original))
        self.nodes = {node.name: node for node in self.original}
        self.order = {node: i for i, node in enumerate(self.original)}
        self.lifts = [self.nodes[name] for segment in plan.segments for name in segment.lifts]
        self.sides = {pair for segment in plan.segments for pair in segment.sides}
        self.stale = {*self.lifts, *(self.nodes[name] for site in plan.sites for name in site.adds)}
        single_pass = find(config.effective_connection, config.streams).single_pass
        self.authors = authors(plan, self.original) if single_pass else None
        self.streams: dict[fx.Node, fx.Node] = {}
        self.last: dict[fx.Node, fx.Node] = {}  # last node emitted for a value, where the next one goes
        self.coefficients: dict[str, dict[fx.Node, list[fx.Node]]] = {}
        self.places: dict[tuple[str, fx.Node], fx.Node] = {}  # where the gate of a site is computed from a value
        self.read_by: dict[fx.Node, dict[fx.Node, fx.Node]] = {}  # user -> what it reads -> the readout instead

    def run(self) -> None:
        """Streams first, then readouts: only then is it known that whoever still uses a value needs one tensor."""
        for _, step, subject in sorted(self._steps(), key=lambda item: item[0]):
            step(subject)
        for segment in self.plan.segments:
            for readout in segment.readouts:
                self._read_out(readout)
        # Once per user: one output may collect a state of every layer, and each call goes through all its arguments.
        for user, singles in self.read_by.items():
            replace_inputs(user, singles)
        for node in sorted(self.stale, key=self.order.__getitem__, reverse=True):
            self.graph.erase_node(node)

    def _steps(self) -> list[tuple[tuple[int, int], Callable[[Any], None], Any]]:
        steps: list[tuple[tuple[int, int], Callable[[Any], None], Any]] = []
        for node in self.lifts:
            steps.append(((self.order[node], 0), self._lift, node))
        for site in self.plan.sites:
            for value in dict.fromkeys((site.base, *site.lifts)):
                steps.append(((self.order[self.nodes[value]], 1), self._open, (site, value)))
            steps.append(((self.order[self.nodes[site.add]], 0), self._close, site))
        return steps

    def _lift(self, node: fx.Node) -> None:
        before, after = behind(node).prev, behind(node)
        with self.graph.inserting_before(after):
            twin = lift(node, {v: self.streams[v] for v in node.all_input_nodes if self._is_streamed(node, v)})
        emitted = twin
        while emitted is not before:
            self._describe(emitted, node, f"{node.name}_streams")
            emitted = emitted.prev
        self._keep(node, twin)

    def _is_streamed(self, lifted: fx.Node, operand: fx.Node) -> bool:
        return operand in self.streams and (lifted.name, operand.name) not in self.sides

    def _open(self, opened: tuple[Site, str]) -> None:
        """Coefficients at the base, and the read for all in the branch that starts at it or a value lifted from it."""
        site, value = opened
        node = self.nodes[value]
        own = self._coefficients(site, self.nodes[site.base], site.base_axis)[0]
        if self.authors is None:
            self._read(site, node, own)
        elif node in self.streams:  # at an entry streams are equal, and each is what is read
            weights = self._weights_of(value, site.base_axis)
            if weights is None:
                weights = self._emit(site, node, "equal_weights", (self._stream(node),), entry=False)
            self._read(site, node, weights)

    def _weights_of(self, value: str, axis: int) -> fx.Node | None:
        """Under single-pass connections, the read weights of the site before a value, where they fit."""
        before = self.authors.get(value) if self.authors is not None else None
        if before is None or before.channel_axis != axis:
            return None
        return self._coefficients(before, self.nodes[before.skip], before.channel_axis)[0]

    def _read(self, site: Site, value: fx.Node, pre: fx.Node) -> None:
        own = {*site.adds, *site.lifts}
        users = [u for u in value.users if u not in self.stale and u.name not in own]
        readers = [u for u in users if u.name in site.branch_nodes or (value in self.streams and asks_size(u))]
        if not readers:
            return
        u = self._emit(site, value, "read", (self._stream(value), pre), entry=value not in self.streams)
        for reader in readers:
            reader.replace_input_with(value, u)

    def _close(self, site: Site) -> None:
        """The write, where the add was."""
        add, skip = self.nodes[site.add], self.nodes[site.skip]
        _, post, mixing = self._coefficients(site, skip, site.channel_axis)
        with self.graph.inserting_before(add):
            y = self._branch_sum(site)
            target = kernels.write if skip in self.streams else kernels.entry_write
            streams = self.graph.call_function(target, (self._stream(skip), y, post, mixing))
        self._describe(streams, add, f"{identifier(site.key)}_streams", site, "write")
        self._keep(add, streams)
        for user in list(add.users):
            if user not in self.stale and user.name in site.size_users:
                user.replace_input_with(add, y)

    def _branch_sum(self, site: Site) -> fx.Node:
        first, *rest = site.branches
        total = self.nodes[first]
        if first in site.negated:
            total = self._term(site, operator.neg, total)
        for name in rest:
            total = self._term(site, operator.sub if name in site.negated else operator.add, total, self.nodes[name])
        return total

    def _term(self, site: Site, target: Callable[..., Any], *args: fx.Node) -> fx.Node:
        node = self.graph.call_function(target, args)
        self._describe(node, self.nodes[site.add], f"{identifier(site.key)}_branch", site, "branch")
        return node

    def _coefficients(self, site: Site, value: fx.Node, axis: int) -> list[fx.Node]:
        """pre, post, R computed at `value`; once per site unless a view between base and add changes the tokens."""
        known = self.coefficients.setdefault(site.key, {})
        if not known or (site.moves_axes and value not in known):
            known[value] = self._emit_coefficients(site, value, axis)
        return known.get(value) or next(iter(known.values()))

    def _emit_coefficients(self, site: Site, value: fx.Node, axis: int) -> list[fx.Node]:
        connection, n = self.config.effective_connection, self.config.streams
        names = parameter_shapes(connection, n, site.channels)
        entry = value not in self.streams
        constants = {"connection": connection, "axis": axis, **({"n": n} if entry else {})}
        params = tuple(self._attribute(site.key, name, self._place(site, value)) for name in names)
        result = self._emit(site, value, "coefficients", (self._stream(value), params), constants, entry=entry)
        found = [self._emit_call(site, value, operator.getitem, (result, i), name)
                 for i, name in enumerate(("pre", "post", "mixing"))]  # fmt: skip
        example = example_of(value)
        if self.authors is not None and example is not None:  # the next site may lie in another stage of a pipeline
            found[0].meta["val"] = weights_like(example, n=n, axis=axis)
        return found

    def _place(self, site: Site, value: fx.Node) -> fx.Node:
        """The value, or a node behind it where gradients are on again, as they are for the branch."""
        found = self.places.get((site.key, value))
        if found is None:
            here = self.order[value]
            own = {*site.branch_nodes, *site.adds, *site.lifts}
            readers = (self.order[u] for u in value.users if u.name in own)
            found = place_with_gradients(self.original, here, min(readers, default=here)) if self.switched else value
            self.places[site.key, value] = found
        return found

    def _attribute(self, key: str, name: str, value: fx.Node) -> fx.Node:
        with self.graph.inserting_before(behind(self.last.get(value, value))):
            node = self.graph.create_node("get_attr", f"{OWNER}.{identifier(key)}.{name}")
        self.last[value] = node
        return node

    def _emit(self, site: Site, value: fx.Node, name: str, args: Any, kwargs: Any = None, *, entry: bool) -> fx.Node:
        target = getattr(kernels, f"entry_{name}" if entry else name)
        return self._emit_call(site, value, target, args, name, kwargs or {})

    def _emit_call(self, site: Site, value: fx.Node, target: Any, args: Any, role: str, kwargs: Any = None) -> fx.Node:
        """Emit a call right behind everything already emitted for `value`."""
        place = self._place(site, value)
        with self.graph.inserting_before(behind(self.last.get(place, place))):
            node = self.graph.call_function(target, args, kwargs or {})
        self._describe(node, self.nodes[site.add], f"{identifier(site.key)}_{role}", site, role)
        self.last[place] = node
        return node

    def _read_out(self, readout: Readout) -> None:
        value = self.nodes[readout.node]
        users = [user for user in value.users if user not in self.stale]
        learned = self.config.reduce == "learned" and readout.parameters > 0
        names = readout_shapes("learned", self.config.streams, readout.channels) if learned else {}
        params = tuple(self._attribute(readout.key, name, value) for name in names)
        how = "mean" if self.config.reduce == "learned" and not learned else self.config.reduce
        weights = self._weights_of(readout.node, readout.channel_axis) if how == "mean" else None
        with self.graph.inserting_before(behind(self.last[value])):
            constants: dict[str, Any] = {"how": how, "axis": readout.channel_axis}
            if how == "learned" and (eps := readout_eps(self.config.effective_connection)):
                constants["eps"] = eps
            if weights is not None:
                single = self.graph.call_function(kernels.read, (self.streams[value], weights))
            else:
                single = self.graph.call_function(kernels.reduce, (self.streams[value], params), constants)
        self._describe(single, value, identifier(readout.key))
        single.meta.update({k: v for k, v in value.meta.items() if k in ("val", "example_value")})
        for user in users:
            self.read_by.setdefault(user, {})[value] = single

    def _keep(self, value: fx.Node, streams: fx.Node) -> None:
        self.streams[value] = self.last[value] = streams
        streams.meta[STREAMS_OF] = value_of(value)

    def _stream(self, value: fx.Node) -> fx.Node:
        return self.streams.get(value, value)

    def _describe(self, node: fx.Node, origin: fx.Node, name: str, site: Site | None = None, role: str = "") -> None:
        """Carry file, line and module over, name the node, and mark it for later passes."""
        describe(node, origin, name)
        if site is not None:
            node.meta["mhc"] = {"site": site.key, "role": role}
