"""Second derivatives of coefficients: gates and matrix of a token are one kernel, the rest is products with phi."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass

import torch
from torch import Tensor

from mhc_compile.kernels.formulas import coefficients, norms
from mhc_compile.kernels.formulas.lookup import manifold_of
from mhc_compile.kernels.formulas.manifolds import Manifold
from mhc_compile.kernels.operators.implementations import chosen


@dataclass(frozen=True)
class Second:
    """What changes along a direction.

    Attributes:
        pre: read weights `[T, n]`, as they are.
        pre_change: of these.
        mix_change: of post and R.
        gV: gradient of the streams by the coefficients alone, as it is.
        gV_change: of that.
        parameters: of the gradients of phi, alpha and bias.
    """

    pre: Tensor
    pre_change: Tensor
    mix_change: Tensor
    gV: Tensor
    gV_change: Tensor
    parameters: tuple[Tensor, Tensor, Tensor]


@dataclass(frozen=True)
class Gate:
    """The coefficients of a site and a direction.

    Attributes:
        V: rows of the streams `[m, T, C]`, in the coefficient dtype.
        change: of V.
        params: phi, alpha and bias.
        along: what these change by, None for not at all.
        stat: as the step has kept it.
        n: number of streams.
        connection: of the site.
    """

    V: Tensor
    change: Tensor
    params: Sequence[Tensor]
    along: Sequence[Tensor | None]
    stat: Tensor
    n: int
    connection: str

    def second(self, gpre: Tensor, gpre_change: Tensor, gmix: Tensor) -> Second:
        """What follows from the gradients of pre `[T, n]`, which changes, and of mix, which stays."""
        V, hV, n, row = self.V, self.change, self.n, manifold_of(self.connection)
        z, kept = coefficients.statistics(self.stat, n, row)
        W = norms.centred(V, kept, n, row)
        factor = norms.per_stream(kept, V, n, row)
        rates = -factor.square() * _mean(W * hV, row)  # of 1 / rms or 1 / std, relative to it
        inverse, rate = norms.inverses(kept, n, row), _per_column(rates, n, row)
        hphi, halpha, hbias = self.along
        blocks, hblocks = self._blocks(self.params[0]), None if hphi is None else self._blocks(hphi)
        hz = _sum(torch.einsum("mtc,mck->tk", hV, blocks), None if hblocks is None else _project(V, hblocks))
        hz = hz * inverse + z * rate
        scale, hscale = self._columns(self.params[1]), None if halpha is None else self._columns(halpha)
        t, (slope, bend) = norms.response(z, row), norms.slopes(z, row)
        ht = hz * slope
        along = _sum(_sum(ht * scale, None if hscale is None else t * hscale), hbias)
        logits = t * scale + self.params[2].to(z.dtype)
        pre, hpre, hmix, back, hback = self._tangents()(
            logits, along, gpre.to(z.dtype), gpre_change.to(z.dtype), gmix.to(z.dtype), n, self.connection
        )
        gt, hgt = back * scale, _sum(hback * scale, None if hscale is None else back * hscale)
        gz, hgz = gt * slope, hgt * slope + gt * bend * hz
        gq, hgq = gz * inverse, (hgz + gz * rate) * inverse
        square = -factor.square()
        own = square * norms.own(gz * z, V, n, row)  # by the norm, which depends on V as well
        hown = 2 * rates * own + square * norms.own(hgz * z + gz * hz, V, n, row)
        gV = gq @ blocks.mT + own * W
        hgV = hgq @ blocks.mT + hown * W + own * (hV - hV.mean(2, keepdim=True) if row.hyper else hV)
        hgV = hgV if hblocks is None else hgV + gq @ hblocks.mT
        return Second(pre, hpre, hmix, gV, hgV, self._parameters(gq, hgq, hback * t + back * ht, hback))

    def _parameters(self, gq: Tensor, hgq: Tensor, scaled: Tensor, hback: Tensor) -> tuple[Tensor, Tensor, Tensor]:
        phi, alpha, bias = self.params
        hgphi = (self.change.mT @ gq + self.V.mT @ hgq).expand(self.n, -1, -1).reshape(phi.shape)
        parts = scaled.sum(0).split(manifold_of(self.connection).parts(self.n))
        return hgphi.to(phi.dtype), torch.stack([p.sum() for p in parts]).to(alpha.dtype), hback.sum(0).to(bias.dtype)

    def _blocks(self, phi: Tensor) -> Tensor:
        return coefficients.blocks(phi, self.V, self.n)

    def _columns(self, alpha: Tensor) -> Tensor:
        return coefficients.columns(alpha.to(self.V.dtype), self.n, manifold_of(self.connection))

    def _tangents(self) -> Callable[..., tuple[Tensor, ...]]:
        module = chosen(self.V.device.type, self.V.dtype, self.n, self.connection)
        found: Callable[..., tuple[Tensor, ...]] = getattr(module, "tangents", coefficients.tangents)
        return found


def _mean(products: Tensor, row: Manifold) -> Tensor:
    """Over what one norm takes, `[m or 1, T, 1]`."""
    return products.mean(2, keepdim=True) if row.hyper else products.mean((0, 2))[None, :, None]


def _per_column(rates: Tensor, n: int, row: Manifold) -> Tensor:
    """`[m or 1, T, 1]` as `[T, K]`, or `[T, 1]` where all columns share one."""
    rates = rates.squeeze(2).t()
    return rates.expand(-1, n).repeat(1, row.columns(n) // n) if row.hyper else rates


def _project(V: Tensor, blocks: Tensor) -> Tensor:
    return torch.einsum("mtc,mck->tk", V, blocks)


def _sum(value: Tensor, more: Tensor | None) -> Tensor:
    return value if more is None else value + more
