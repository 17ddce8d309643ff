"""What the hyper-connections of one plan move, compute and keep in a training step."""

from __future__ import annotations

import math
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from functools import cached_property

from mhc_compile.config import Config
from mhc_compile.cost.traffic import (
    FUSED_ADD,
    Traffic,
    coefficient_elements,
    kept_units,
    lifted_traffic,
    one_kernel_per_formula,
    papers_kernels,
    reading,
    restoring_units,
    step_traffic,
)
from mhc_compile.errors import CaptureError
from mhc_compile.kernels.formulas.connections import find, parameter_shapes
from mhc_compile.kernels.formulas.manifolds import Manifold
from mhc_compile.passes.plan.data import Plan, Site
from mhc_compile.passes.plan.steps import StepKind

SINGLE = 4  # bytes of the dtype of new parameters and coefficients
_SINKHORN = 20


@dataclass(frozen=True)
class Mixing:
    """The new work of one plan.

    Attributes:
        plan: with sizes that are numbers.
        config: what it was made with.
        scale: tokens of a step over those that were traced.
        itemsize: bytes of one element of the streams.
    """

    plan: Plan
    config: Config
    scale: float
    itemsize: int

    @property
    def n(self) -> int:
        """Number of streams."""
        return self.config.streams

    def tokens(self, site: Site) -> float:
        """Tokens of a step at a site."""
        return self.elements(site) / site.channels

    def elements(self, site: Site) -> float:
        """Elements of the residual stream of a step at a site: tokens times C."""
        sizes = [size for size in site.shape if not isinstance(size, int)]
        if sizes:
            raise CaptureError(f"the size {sizes[0]} of site {site.key} is open, so nothing can be counted there")
        return self.scale * math.prod(int(size) for size in site.shape)

    def unfused(self) -> Traffic:
        """Bytes with one kernel per formula."""
        return self._per_site(one_kernel_per_formula(self.n))

    def papers(self) -> Traffic:
        """Bytes with the kernels of the mHC paper."""
        return self._per_site(papers_kernels(self.n))

    def ours(self, slowdown: Mapping[StepKind, Traffic] | None = None) -> Traffic:
        """Bytes of the steps of the plan, each times its slowdown; coefficients, lifted operators and phi included."""
        moved = Traffic(0, 0)
        for site, traffic, kind in self._steps():
            if slowdown is not None:
                traffic = traffic.times(slowdown[kind])
            moved = _sum(moved, _scaled(traffic, self.elements(site) * self.itemsize))
        return _sum(moved, self._besides())

    def replaced(self) -> Traffic:
        """Bytes of the plain model that are no longer moved, in a compiled program."""
        return self._per_site(FUSED_ADD, besides=False)

    @cached_property
    def columns(self) -> int:
        """Coefficients that are computed from the streams of a token."""
        if self._manifold is not None:
            return self._manifold.columns(self.n)
        shapes = parameter_shapes(self.config.effective_connection, self.n, 1)
        return sum(shape[-1] for name, shape in shapes.items() if name == "phi" or name.startswith("w_"))

    @cached_property
    def _manifold(self) -> Manifold | None:
        return find(self.config.effective_connection, self.n).manifold

    def product_flops(self, site: Site) -> float:
        """FLOPs of the coefficients of a token, forward and twice that backward: streams times phi.

        One tensor that stands for all streams is multiplied with the sum of the blocks of phi.
        """
        streams = 1 if site.key in self._entries else self.n
        if self._manifold is not None:
            return 3 * 2 * streams * site.channels * self.columns
        shapes = parameter_shapes(self.config.effective_connection, self.n, site.channels)
        matrices = (math.prod(s) for name, s in shapes.items() if len(s) == 2 and not name.startswith("static"))
        return 3 * 2 * sum(matrices)

    @cached_property
    def _entries(self) -> frozenset[str]:
        """Keys of the sites that are gated before there are streams."""
        return frozenset(step.gates for step in self.plan.steps if step.kind is StepKind.ENTRY)

    def mixing_flops(self, site: Site) -> float:
        """FLOPs per token of read and write, forward, twice that backward, and the write again to restore streams."""
        read, write = 2 * self.n, 2 * self.n * self.n + 2 * self.n
        iterates = self._manifold is not None and self._manifold.projection == "sinkhorn"
        sinkhorn = 4 * _SINKHORN * self.n * self.n if iterates else 0
        return site.channels * (3 * read + 4 * write) + 3 * sinkhorn

    def flops(self) -> float:
        """Of all sites in a step."""
        return sum(self.tokens(s) * (self.product_flops(s) + self.mixing_flops(s)) for s in self.plan.sites)

    def products(self) -> float:
        """FLOPs of all products with phi in a step."""
        return sum(self.tokens(s) * self.product_flops(s) for s in self.plan.sites)

    def kept(self, *, recompute: bool = False) -> float:
        """Bytes kept for the backward: streams and branch output of each site, and fp32 coefficients."""
        streams = sum(
            self.elements(self.plan.site(key)) * self.itemsize * kept_units(self.n, size)
            for key, size in self._groups(recompute)
        )
        return streams + sum(self.tokens(s) * SINGLE * self._kept_coefficients() for s in self.plan.sites)

    def restoring(self) -> Traffic:
        """Bytes that `recompute="auto"` reads and writes besides."""
        moved = sum(
            self.elements(self.plan.site(key)) * self.itemsize * restoring_units(self.n, size)
            for key, size in self._groups(True)
        )
        return Traffic(0, moved)

    @property
    def restores(self) -> bool:
        """Whether `recompute` has steps that restore streams."""
        return any(step.kind is StepKind.BOUNDARY for step in self.plan.steps)

    def launches(self, each: int) -> int:
        """Kernels of a step, if every step of the plan takes so many."""
        return each * len(self.plan.steps)

    def _groups(self, recompute: bool) -> Iterator[tuple[str, int]]:
        """Each site with the number of sites that keep streams together."""
        config = Config(n=self.config.n, recompute="auto") if recompute else Config(n=self.config.n)
        for segment in self.plan.segments:
            size = config.group_size(len(segment.sites)) if recompute else 1
            yield from ((key, size) for key in segment.sites)

    def _kept_coefficients(self) -> int:
        statistics = 1 if self._manifold is None else self._manifold.statistics(self.n)
        return self.n * self.n + self.n + self.columns + statistics

    def _steps(self) -> Iterator[tuple[Site, Traffic, StepKind]]:
        first = {segment.sites[0] for segment in self.plan.segments}
        for step in self.plan.steps:
            site = self.plan.site(step.writes or step.gates)
            if site.sources:
                yield site, reading(self.config.effective_connection, len(site.sources)), step.kind
            else:
                yield site, step_traffic(step.kind, self.n, entry=step.writes in first), step.kind

    def _per_site(self, traffic: Traffic, *, besides: bool = True) -> Traffic:
        elements = sum(map(self.elements, self.plan.sites))
        moved = _scaled(traffic, elements * self.itemsize)
        return _sum(moved, self._besides()) if besides else moved

    def _besides(self) -> Traffic:
        """Coefficients, operators on every stream, and phi with its gradient."""
        coefficients = sum(
            self.tokens(s) * SINGLE * coefficient_elements(self.n, self.columns) for s in self.plan.sites
        )
        moved = Traffic(coefficients / 3 + SINGLE * self.plan.parameters, coefficients * 2 / 3)
        moved = _sum(moved, Traffic(0, 2 * SINGLE * self.plan.parameters))
        for segment in self.plan.segments:
            size = self.elements(self.plan.site(segment.sites[0])) * self.itemsize
            moved = _sum(moved, _scaled(lifted_traffic(self.n), size * len(segment.lifts)))
        return moved


def _sum(a: Traffic, b: Traffic) -> Traffic:
    return Traffic(a.forward + b.forward, a.backward + b.backward)


def _scaled(traffic: Traffic, factor: float) -> Traffic:
    return Traffic(traffic.forward * factor, traffic.backward * factor)
