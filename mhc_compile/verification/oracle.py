"""What a plan means, in plain PyTorch and one stream at a time: the oracle for new parameters wherever they are.

It runs the graph the plan was made from, node by node. Operators between sites are called once per stream as they
stand, so nothing here knows how they are lifted, fused or restored.
"""

from __future__ import annotations

import operator
from collections.abc import Iterator
from typing import Any, Protocol

import torch
from torch import Tensor, fx, nn

from mhc_compile.config import Config
from mhc_compile.kernels.formulas.connections import find, parameter_shapes, readout_eps, readout_shapes
from mhc_compile.kernels.operators import streams as formulas
from mhc_compile.passes.decide.single_pass import authors
from mhc_compile.passes.detect.segments import asks_size
from mhc_compile.passes.plan.data import Plan, Readout, Site

Streams = list[Tensor]


class ByKey(Protocol):
    """Parameters of each site: a dict, or `hyper_connections` of a model."""

    def __getitem__(self, key: str, /) -> nn.Module:
        """The module with the parameters of a site."""


class Oracle(fx.Interpreter):
    """`run(*inputs)` computes what a rewritten graph must.

    Args:
        gm: the normalised graph, not rewritten.
        plan: made from it.
        config: the options of the plan.
        parameters: `hyper_connections` of the rewritten model.
    """

    def __init__(self, gm: fx.GraphModule, plan: Plan, config: Config, parameters: ByKey) -> None:
        super().__init__(gm, garbage_collect_values=False)
        self.plan, self.config, self.parameters = plan, config, parameters
        self.site_at = {site.add: site for site in plan.sites}
        self.inner = {name for site in plan.sites for name in site.adds}
        self.lifts = {name for segment in plan.segments for name in segment.lifts}
        self.sides = {pair for segment in plan.segments for pair in segment.sides}
        self.readouts = {readout.node: readout for segment in plan.segments for readout in segment.readouts}
        self.streams: dict[str, Streams] = {}
        self.single_pass = find(config.effective_connection, config.streams).single_pass
        self.before = authors(plan, gm.graph.nodes) if self.single_pass else {}
        self.read_weights: dict[str, Tensor] = {}

    def run_node(self, n: fx.Node) -> Any:
        """One node: a site, an operator on every stream, or the model's own computation."""
        if n.name in self.site_at:
            self.streams[n.name] = self._write(self.site_at[n.name])
        elif n.name in self.lifts and self._streamed(n):
            self.streams[n.name] = [self._call(n, i) for i in self._drawing_once()]
        else:
            return self._call(n, None)
        return self._read_out(n.name)

    def _drawing_once(self) -> Iterator[int]:
        """Every stream, each with the random numbers of the first."""
        state = torch.get_rng_state()
        for i in range(self.config.streams):
            torch.set_rng_state(state)
            yield i

    def _streamed(self, n: fx.Node) -> list[fx.Node]:
        return [v for v in n.all_input_nodes if v.name in self.streams and (n.name, v.name) not in self.sides]

    def _call(self, n: fx.Node, stream: int | None) -> Any:
        on_stream = self._streamed(n) if stream is not None else []

        def value(v: fx.Node) -> Any:
            if v in on_stream:
                return self.streams[v.name][stream or 0]
            site = self._site_reading(n, v)
            return self.env[v] if site is None else self._read(site, v)

        args, kwargs = fx.map_arg((n.args, n.kwargs), value)
        return getattr(self, n.op)(n.target, args, kwargs)

    def _site_reading(self, n: fx.Node, v: fx.Node) -> Site | None:
        """The site whose branch `n` belongs to, if `v` is where that branch leaves the stream."""
        if n.name in self.inner | self.lifts:
            return None
        for site in self.plan.sites:
            if n.name in site.branch_nodes and v.name in (site.base, *site.lifts) and n.name not in site.lifts:
                return None if asks_size(n) else site
        return None

    def _stack(self, name: str) -> Tensor:
        if name in self.streams:
            return torch.stack(self.streams[name])
        node = next(v for v in self.env if v.name == name)
        return self.env[node].expand(self.config.streams, *self.env[node].shape)

    def _coefficients(self, site: Site, name: str, axis: int) -> tuple[Tensor, Tensor, Tensor]:
        connection = self.config.effective_connection
        names = parameter_shapes(connection, self.config.streams, site.channels)
        module = self.parameters[site.key] if names else None
        params = [getattr(module, name) for name in names]
        return formulas.coefficients(self._stack(name), params, connection=connection, axis=axis)

    def _read(self, site: Site, v: fx.Node) -> Tensor:
        if self.single_pass:
            pre = self._weights_before(v.name, site.base_axis)
        else:
            pre = self._coefficients(site, site.base, site.base_axis)[0]
        X = self._stack(v.name)
        return X.mean(0) if pre is None else formulas.read(X, pre)

    def _weights_before(self, name: str, axis: int) -> Tensor | None:
        site = self.before.get(name)
        return self.read_weights[site.key] if site is not None and site.channel_axis == axis else None

    def _write(self, site: Site) -> Streams:
        moved = site.moves_axes
        self.read_weights[site.key], post, mixing = self._coefficients(
            site, site.skip if moved else site.base, site.channel_axis if moved else site.base_axis
        )
        terms = [self.env[v] for name in site.branches for v in self.env if v.name == name]
        signs = [operator.neg if name in site.negated else operator.pos for name in site.branches]
        y = sum(sign(term) for sign, term in zip(signs, terms, strict=True))
        return list(formulas.write(self._stack(site.skip), y, post, mixing))

    def _read_out(self, name: str) -> Tensor:
        readout: Readout | None = self.readouts.get(name)
        if readout is None:  # nobody needs one tensor, but a size may be asked for
            return self.streams[name][0]
        learned = self.config.reduce == "learned" and readout.parameters > 0
        names = readout_shapes("learned", self.config.streams, readout.channels) if learned else {}
        params = [getattr(self.parameters[readout.key], name) for name in names]
        X = torch.stack(self.streams[name])
        if self.config.reduce == "mean" and (pre := self._weights_before(name, readout.channel_axis)) is not None:
            return formulas.read(X, pre)
        how = "mean" if self.config.reduce == "learned" and not learned else self.config.reduce
        eps = readout_eps(self.config.effective_connection)
        return formulas.reduce(X, params, how=how, axis=readout.channel_axis, eps=eps)
