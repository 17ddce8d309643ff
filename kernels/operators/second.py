"""Second derivatives of the fused steps: the backward of a backward, by fused steps again.

A backward takes gradients g of the results and inputs x to `J(x)^T g`. Its own backward is asked for the gradients of
`<h, J(x)^T g>`, where h belongs to the inputs: for g that is what the step changes by along h, for x what the backward
changes by along h while g stays. A write is linear in streams and in coefficients, so both are writes and their
backward again. Of a gate see `second_gate.py`.

A function for each step takes h by the names of the inputs, where None stands for zero (whoever asks for forces has no
direction along the parameters), and what its backward takes; it returns the gradient of each of these but `stat`.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from types import MappingProxyType

import torch
from torch import Tensor

from mhc_compile.kernels.formulas import coefficients
from mhc_compile.kernels.formulas.layout import from_rows
from mhc_compile.kernels.formulas.packed import SINGLE_PASS
from mhc_compile.kernels.operators.implementations import implementation
from mhc_compile.kernels.operators.second_gate import Gate, Second

Change = Tensor | None
Changes = tuple[Change, ...]


def write(h: Sequence[Change], g: Tensor, X: Tensor, y: Tensor, mix: Tensor, n: int, axis: int) -> Changes:
    """Of `packed.write_backward`."""
    return _written(h, X, y, mix, n, axis), *_moved(g, h, X, y, mix, n, axis)


def leave(
    h: Sequence[Change], g: Tensor, X: Tensor, y: Tensor, mix: Tensor, n: int, axis: int, scale: float
) -> Changes:
    """Of `packed.leave_backward`."""
    run, (hX, hy, hmix) = implementation(X, y, n), _filled(h, X, y, mix)
    of_g = run.leave(hX, hy, mix, n, axis, scale) + run.leave(X, y, hmix, n, axis, scale)
    return of_g, *run.leave_backward(g, hX, hy, hmix, n, axis, scale)


def gate(
    h: Sequence[Change],
    gu: Tensor,
    gmix: Tensor,
    X: Tensor,
    phi: Tensor,
    alpha: Tensor,
    bias: Tensor,
    stat: Tensor,
    n: int,
    axis: int,
    connection: str = "mhc",
) -> Changes:
    """Of `packed.gate_backward`."""
    V, hV = coefficients.rows(X, axis), coefficients.rows(_or_zero(h[0], X), axis)
    site = Gate(V, hV, (phi, alpha, bias), h[1:], stat, n, connection)
    of_gu, of_gV, _, found = _read(site, gu, gmix, axis)
    of_X = from_rows(of_gV, X.shape[1:], axis).to(X.dtype)
    return of_gu, found.mix_change.to(gmix.dtype), of_X, *found.parameters


def boundary(
    h: Sequence[Change],
    g: Tensor,
    gu: Tensor,
    gmix: Tensor,
    X: Tensor,
    y: Tensor,
    mix: Tensor,
    phi: Tensor,
    alpha: Tensor,
    bias: Tensor,
    stat: Tensor,
    n: int,
    axis: int,
    connection: str = "mhc",
) -> Changes:
    """Of `packed.boundary_backward`."""
    V, following = _following(h, X, y, mix, n, axis)
    site = Gate(V, coefficients.rows(following, axis), (phi, alpha, bias), h[3:], stat, n, connection)
    of_gu, change, gV, found = _read(site, gu, gmix, axis)
    G = gV + coefficients.rows(g, axis)
    return (
        following,
        of_gu,
        found.mix_change.to(gmix.dtype),
        *_behind(G, change, h, X, y, mix, n, axis),
        *found.parameters,
    )


def single_gate(
    h: Sequence[Change],
    gpre: Tensor,
    gmix: Tensor,
    X: Tensor,
    phi: Tensor,
    alpha: Tensor,
    bias: Tensor,
    stat: Tensor,
    n: int,
    axis: int,
    connection: str = SINGLE_PASS,
) -> Changes:
    """Of `packed.single_gate_backward`."""
    V, hV = coefficients.rows(X, axis), coefficients.rows(_or_zero(h[0], X), axis)
    found = Gate(V, hV, (phi, alpha, bias), h[1:], stat, n, connection).second(gpre, torch.zeros_like(gpre), gmix)
    of_X = from_rows(found.gV_change, X.shape[1:], axis).to(X.dtype)
    return found.pre_change.to(gpre.dtype), found.mix_change.to(gmix.dtype), of_X, *found.parameters


def single_boundary(
    h: Sequence[Change],
    g: Tensor,
    gu: Tensor,
    gpre: Tensor,
    gmix: Tensor,
    X: Tensor,
    y: Tensor,
    mix: Tensor,
    pre: Tensor,
    phi: Tensor,
    alpha: Tensor,
    bias: Tensor,
    stat: Tensor,
    n: int,
    axis: int,
    connection: str = SINGLE_PASS,
) -> Changes:
    """Of `packed.single_boundary_backward`."""
    V, following = _following(h, X, y, mix, n, axis)
    hV, rows = coefficients.rows(following, axis), coefficients.rows(gu[None], axis)[0]
    site = Gate(V, hV, (phi, alpha, bias), h[4:], stat, n, connection)
    found = site.second(gpre, torch.zeros_like(gpre), gmix)
    weights, hpre = pre.to(V.dtype), h[3]
    G = found.gV + coefficients.rows(g, axis) + weights.t()[..., None] * rows
    change, of_u = found.gV_change, _weighted(weights, hV)
    if hpre is not None:
        change, of_u = change + hpre.to(V.dtype).t()[..., None] * rows, of_u + _weighted(hpre.to(V.dtype), V)
    of_gu = from_rows(of_u, gu.shape, axis).to(gu.dtype)
    of_pre = torch.einsum("tc,itc->ti", rows, hV).to(pre.dtype)
    of_gpre, of_gmix = found.pre_change.to(gpre.dtype), found.mix_change.to(gmix.dtype)
    written = _behind(G, change, h, X, y, mix, n, axis)
    return following, of_gu, of_gpre, of_gmix, *written, of_pre, *found.parameters


SECOND: Mapping[str, Callable[..., Changes]] = MappingProxyType(
    {f.__name__: f for f in (write, leave, gate, boundary, single_gate, single_boundary)}
)
"""The functions above by the name of their step."""


def _read(site: Gate, gu: Tensor, gmix: Tensor, axis: int) -> tuple[Tensor, Tensor, Tensor, Second]:
    """A gate with its read: what u and the gradient of V change by, that gradient, and the coefficients."""
    V, hV, rows = site.V, site.change, coefficients.rows(gu[None], axis)[0]
    gpre, gpre_change = (torch.einsum("tc,mtc->tm", rows, W).expand(-1, site.n) for W in (V, hV))
    found = site.second(gpre, gpre_change, gmix)
    pre, hpre = (coefficients.per_stream(p, V) for p in (found.pre, found.pre_change))
    of_u = from_rows(_weighted(hpre, V) + _weighted(pre, hV), gu.shape, axis).to(gu.dtype)
    gV, change = (gradient + p.t()[..., None] * rows for gradient, p in ((found.gV, pre), (found.gV_change, hpre)))
    return of_u, change, gV, found


def _weighted(weights: Tensor, V: Tensor) -> Tensor:
    return (weights.t()[..., None] * V).sum(0)


def _following(h: Sequence[Change], X: Tensor, y: Tensor, mix: Tensor, n: int, axis: int) -> tuple[Tensor, Tensor]:
    """Rows of the streams behind a write, and what these streams change by."""
    written = implementation(X, y, n).write(X, y, mix, n, axis)
    return coefficients.rows(written, axis), _written(h, X, y, mix, n, axis)


def _written(h: Sequence[Change], X: Tensor, y: Tensor, mix: Tensor, n: int, axis: int) -> Tensor:
    run, (hX, hy, hmix, *_) = implementation(X, y, n), h
    changed = run.write(_or_zero(hX, X), _or_zero(hy, y), mix, n, axis)
    return changed if hmix is None else changed + run.write(X, y, hmix, n, axis)


def _moved(g: Tensor, h: Sequence[Change], X: Tensor, y: Tensor, mix: Tensor, n: int, axis: int) -> tuple[Tensor, ...]:
    """What the backward of a write changes by while the gradient of its result stays."""
    found: tuple[Tensor, ...] = implementation(X, y, n).write_backward(g, *_filled(h, X, y, mix), n, axis)
    return found


def _behind(
    G: Tensor, change: Tensor, h: Sequence[Change], X: Tensor, y: Tensor, mix: Tensor, n: int, axis: int
) -> list[Tensor]:
    """The same where that gradient, G in rows, changes as well."""
    dtype = torch.promote_types(X.dtype, y.dtype)
    G, change = (from_rows(rows, y.shape, axis).to(dtype) for rows in (G, change))
    first = implementation(X, y, n).write_backward(change, X, y, mix, n, axis)
    return [a + b for a, b in zip(first, _moved(G, h, X, y, mix, n, axis), strict=True)]


def _filled(h: Sequence[Change], *inputs: Tensor) -> list[Tensor]:
    return [_or_zero(change, value) for change, value in zip(h, inputs, strict=False)]


def _or_zero(change: Change, like: Tensor) -> Tensor:
    return torch.zeros_like(like) if change is None else change
