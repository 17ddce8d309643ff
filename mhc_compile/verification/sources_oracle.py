"""What a plan over a list of sources means, in plain PyTorch: the other oracle.

It runs the graph the plan was made from and keeps, at every value on a stream, what each source of the plan is there.
Operators between sites are called as they stand, for each source that has another place or shape behind them.
"""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor, fx

from mhc_compile.config import Config
from mhc_compile.kernels.formulas.connections import find, parameter_shapes
from mhc_compile.passes.graph.op_kinds import ELSEWHERE, kind_of
from mhc_compile.passes.plan.data import Plan, Readout, Site
from mhc_compile.verification.oracle import ByKey

Held = dict[str, Tensor]
_EPS = 1e-6


class SourcesOracle(fx.Interpreter):
    """`run(*inputs)` computes what a rewritten graph must; arguments as for `Oracle`."""

    def __init__(self, gm: fx.GraphModule, plan: Plan, config: Config, parameters: ByKey) -> None:
        super().__init__(gm, garbage_collect_values=False)
        self.parameters, self.connection = parameters, config.effective_connection
        row = find(self.connection, config.streams).sources
        assert row is not None
        self.restarts = row.restarts
        self.nodes = {node.name: node for node in gm.graph.nodes}
        self.sites = plan.sites
        self.site_at = {site.add: site for site in plan.sites}
        self.inner = {name for site in plan.sites for name in site.adds}
        self.path = {n for s in plan.segments for n in s.lifts} | {n for site in plan.sites for n in site.lifts}
        self.sides = {pair for segment in plan.segments for pair in segment.sides}
        self.entries = {segment.entry for segment in plan.segments}
        self.readouts = {readout.node: readout for segment in plan.segments for readout in segment.readouts}
        self.held: dict[str, Held] = {}
        self.plain: dict[str, Tensor] = {}  # values on a stream as they are, where `env` has what is read out of them

    def run_node(self, n: fx.Node) -> Any:
        """One node: a sum, an operator on the stream, or the model's own computation."""
        if n.name in self.site_at:
            self.held[n.name] = self._write(self.site_at[n.name])
        elif (stream := self._stream_of(n)) is not None:
            self.held[n.name] = self._pass(n, stream)
        else:
            value = self._call(n, {})
            if n.name in self.entries and isinstance(value, Tensor):
                self.held[n.name] = {n.name: value}
            return value
        readout = self.readouts.get(n.name)
        newest = self.held[n.name][n.name]
        return newest if readout is None or len(readout.sources) < 2 else self._read_out(readout)

    def _stream_of(self, n: fx.Node) -> fx.Node | None:
        if n.name not in self.path:
            return None
        return next((v for v in n.all_input_nodes if v.name in self.held and (n.name, v.name) not in self.sides), None)

    def _pass(self, n: fx.Node, stream: fx.Node) -> Held:
        before = self.held[stream.name]
        newest = self._call(n, {stream: before[stream.name]})
        kept = {name: value for name, value in before.items() if name != stream.name}
        if kind_of(n) in ELSEWHERE or newest.shape != before[stream.name].shape:
            kept = {name: self._call(n, {stream: value}) for name, value in kept.items()}
        return {**kept, n.name: newest}

    def _call(self, n: fx.Node, instead: dict[fx.Node, Tensor]) -> Any:
        def value(v: fx.Node) -> Any:
            if v in instead:
                return instead[v]
            site = self._site_reading(n, v)
            if site is not None:
                return self._read(site, v.name)
            on_path = n.name in self.inner | self.path and (n.name, v.name) not in self.sides
            return self.held[v.name][v.name] if on_path and v.name in self.held else self.env[v]

        args, kwargs = fx.map_arg((n.args, n.kwargs), value)
        return getattr(self, n.op)(n.target, args, kwargs)

    def _site_reading(self, n: fx.Node, v: fx.Node) -> Site | None:
        if n.name in self.inner | self.path:
            return None
        found = (s for s in self.sites if n.name in s.branch_nodes and v.name in (s.base, *s.lifts))
        return next(found, None)

    def _read(self, site: Site, value: str) -> Tensor:
        """What a branch reads at the base, or at what the skip was lifted to."""
        if len(site.sources) < 2:
            return self.held[value][value]
        if self.restarts:
            return self._weighted(site.key, list(self.held[value].values()), site.channels, self._axis(site, value))
        read = self._weighted(
            site.key, [self.held[site.base][s] for s in site.sources], site.channels, self._axis(site, site.base)
        )
        name = site.base
        for lift in site.lifts[: site.lifts.index(value) + 1] if value != site.base else ():
            node, before = self._node(lift), self._node(name)
            read, name = self._call(node, {before: read}), lift
        return read

    def _axis(self, site: Site, value: str) -> int:
        return site.base_axis if value == site.base else site.channel_axis

    def _write(self, site: Site) -> Held:
        before = self.held[site.skip]
        y: Any = sum(-self._own(name) if name in site.negated else self._own(name) for name in site.branches)
        skip = before[site.skip] if self.restarts else self._read(site, site.skip)
        total = y.to(torch.promote_types(skip.dtype, y.dtype)) if self.restarts and site.begins_block else skip + y
        kept = before if site.begins_block else {k: v for k, v in before.items() if k != site.skip}
        return {**kept, site.add: total}

    def _own(self, name: str) -> Tensor:
        value: Tensor = self.env[self._node(name)]
        return value

    def _node(self, name: str) -> fx.Node:
        return self.nodes[name]

    def _read_out(self, readout: Readout) -> Tensor:
        values = list(self.held[readout.node].values())
        return self._weighted(readout.key, values, readout.channels, readout.channel_axis)

    def _weighted(self, key: str, values: list[Tensor], channels: int, axis: int) -> Tensor:
        names = parameter_shapes(self.connection, len(values), channels)
        params = [getattr(self.parameters[key], name) for name in names]
        dtype = torch.float64 if values[-1].dtype == torch.float64 else torch.float32
        S = torch.stack([v.movedim(axis, -1).to(dtype) for v in values])
        normed = S / (S.square().mean(-1, keepdim=True) + _EPS).sqrt()
        if self.restarts:
            weights = ((normed @ params[0]) / channels**0.5).softmax(0)
            u = torch.einsum("k...,k...c->...c", weights, normed)
        else:
            weights = params[0].to(dtype).reshape(-1, *(1,) * (S.ndim - 2)).expand(S.shape[:-1])
            if len(params) > 1:
                weights = weights + (torch.nn.functional.gelu(normed[-1] @ params[1]) @ params[2]).movedim(-1, 0)
            u = torch.einsum("k...,k...c->...c", weights, S)
        return u.movedim(-1, axis).to(values[-1].dtype)
