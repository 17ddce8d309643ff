"""The fused steps of a site with `connection="mhc"` in plain PyTorch: what every kernel is held against.

A step is a gate (coefficients and read in one scan), a write, their fusion across two sites (boundary), or the fusion
of the last write with the readout (leave). All four have their backward spelled out, each quantity once.

Shapes, for n streams of C channels and T tokens:

* `X [m, *x.shape]`, `m == n`, or `m == 1` at the entry of a segment, where all n streams are equal to X[0].
* `mix [T, n + n * n]`: post, then R row-major (rows index the output stream), one row per token.
* `stat [T, K + 1]`, K = n * n + 2n: the normed projection z, then 1 / rms. Kept for the backward, has no gradient.
* `phi [n * C, K]`, `alpha [3]`, `bias [K]`, order pre, post, R, as in `reference.manifold_coefficients`.

`mix` and `stat` are fp32, fp64 for fp64 streams (`reference.coefficient_dtype`). Source of the formulas: Xie et al.,
arXiv 2512.24880; the gradients follow from them.
"""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import Tensor

from mhc_compile.kernels import reference
from mhc_compile.kernels.layout import from_rows, to_rows
from mhc_compile.kernels.sinkhorn import sinkhorn_backward, sinkhorn_forward

STEPS = ("gate", "write", "boundary", "leave", "gate_backward", "write_backward", "boundary_backward", "leave_backward")
"""Names of these functions, of the operators for them, and of the functions in the modules of schedules."""


def gate(X: Tensor, phi: Tensor, alpha: Tensor, bias: Tensor, n: int, axis: int) -> tuple[Tensor, Tensor, Tensor]:
    """Coefficients from the streams, and the read: `(u [*x.shape], mix, stat)`."""
    V = _rows(X, axis)
    u, mix, stat = _gate(V, phi, alpha, bias, n)
    return from_rows(u, X.shape[1:], axis).to(X.dtype), mix, stat


def write(X: Tensor, y: Tensor, mix: Tensor, n: int, axis: int) -> Tensor:
    """The next streams `[n, *x.shape]`: `X'_i = sum_j R_ij X_j + post_i y`, in the dtype that `X + y` has."""
    V, branch, coefficients = _operands(X, y, mix, axis)
    rows = _write(V, branch, *_unpack(coefficients, n, X.shape[0]))
    return from_rows(rows, y.shape, axis).to(torch.promote_types(X.dtype, y.dtype))


def boundary(
    X: Tensor, y: Tensor, mix: Tensor, phi: Tensor, alpha: Tensor, bias: Tensor, n: int, axis: int
) -> tuple[Tensor, Tensor, Tensor, Tensor]:
    """`write`, and the `gate` of the next site on its result: `(X', u', mix', stat')`."""
    following = write(X, y, mix, n, axis)
    return following, *gate(following, phi, alpha, bias, n, axis)


def leave(X: Tensor, y: Tensor, mix: Tensor, n: int, axis: int, scale: float) -> Tensor:
    """The last write and the readout: `scale * sum_i X'_i [*x.shape]` without X', in the dtype that `X + y` has."""
    V, branch, coefficients = _operands(X, y, mix, axis)
    post, R = _unpack(coefficients, n, X.shape[0])
    out = (R.sum(1)[..., None] * V.movedim(0, 1)).sum(1) + post.sum(1)[:, None] * branch
    return from_rows(scale * out, y.shape, axis).to(torch.promote_types(X.dtype, y.dtype))


def restore(X: Tensor, past: Sequence[Tensor], n: int, axis: int) -> Tensor:
    """Streams `[n, *x.shape]` from earlier ones: the writes of the sites between, `past = (y, mix, y, mix, ...)`."""
    for y, mix in zip(past[::2], past[1::2], strict=True):
        X = write(X, y, mix, n, axis)
    return X


def gate_backward(
    gu: Tensor, gmix: Tensor, X: Tensor, phi: Tensor, alpha: Tensor, bias: Tensor, stat: Tensor, n: int, axis: int
) -> tuple[Tensor, Tensor, Tensor, Tensor]:
    """Gradients of `gate` for X, phi, alpha and bias from those of u and mix."""
    V = _rows(X, axis)
    gV, gphi, galpha, gbias = _gate_backward(_rows(gu[None], axis)[0], gmix, V, phi, alpha, bias, stat, n)
    return from_rows(gV, X.shape[1:], axis).to(X.dtype), gphi, galpha, gbias


def write_backward(g: Tensor, X: Tensor, y: Tensor, mix: Tensor, n: int, axis: int) -> tuple[Tensor, Tensor, Tensor]:
    """Gradients of `write` for X, y and mix from that of X'."""
    return _write_backward(_rows(g, axis), X, y, mix, n, axis)


def boundary_backward(
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
) -> tuple[Tensor, Tensor, Tensor, Tensor, Tensor, Tensor]:
    """Gradients of `boundary` for X, y, mix, phi, alpha and bias from those of X', u' and mix'; X' is recomputed."""
    V = _rows(write(X, y, mix, n, axis), axis)
    gV, gphi, galpha, gbias = _gate_backward(_rows(gu[None], axis)[0], gmix, V, phi, alpha, bias, stat, n)
    return *_write_backward(gV + _rows(g, axis), X, y, mix, n, axis), gphi, galpha, gbias


def leave_backward(
    g: Tensor, X: Tensor, y: Tensor, mix: Tensor, n: int, axis: int, scale: float
) -> tuple[Tensor, Tensor, Tensor]:
    """Gradients of `leave` for X, y and mix from that of its result: every stream of X' gets `scale * g`."""
    return _write_backward((scale * _rows(g[None], axis)).expand(n, -1, -1), X, y, mix, n, axis)


def _gate(V: Tensor, phi: Tensor, alpha: Tensor, bias: Tensor, n: int) -> tuple[Tensor, Tensor, Tensor]:
    inverse = torch.rsqrt(V.square().mean((0, 2)) + reference.RMS_EPS)[:, None]
    z = torch.einsum("mtc,mck->tk", V, _blocks(phi, V, n)) * inverse
    pre, post, R = _coefficients(z, alpha, bias, n)
    u = (_per_stream(pre, V)[..., None] * V.movedim(0, 1)).sum(1)
    return u, torch.cat((post, R), 1), torch.cat((z, inverse), 1)


def _gate_backward(
    gu: Tensor, gmix: Tensor, V: Tensor, phi: Tensor, alpha: Tensor, bias: Tensor, stat: Tensor, n: int
) -> tuple[Tensor, Tensor, Tensor, Tensor]:
    z, inverse = stat[:, :-1], stat[:, -1:]
    scale = _columns(alpha.to(z.dtype), n)
    pre, post, _ = _coefficients(z, alpha, bias, n)
    gpre = torch.einsum("tc,mtc->tm", gu, V).expand(-1, n)
    glogits = torch.cat(
        (gpre * pre * (1 - pre), gmix[:, :n] * post * (1 - post / 2), _mixing_backward(gmix[:, n:], z, alpha, bias, n)),
        1,
    )
    gz = glogits * scale
    gq = gz * inverse  # z = (v @ phi) * inverse, and inverse depends on v as well: the last term of gV
    gV = _per_stream(pre, V).t()[..., None] * gu + gq @ _blocks(phi, V, n).transpose(1, 2)
    gV = gV - (inverse.square() * (gz * z).sum(1, keepdim=True) / (V.shape[0] * V.shape[2])) * V
    gphi = (V.transpose(1, 2) @ gq).expand(n, -1, -1).reshape(phi.shape)
    galpha = torch.stack([part.sum() for part in (glogits * z).split((n, n, n * n), 1)])
    return gV, gphi.to(phi.dtype), galpha.to(alpha.dtype), glogits.sum(0).to(bias.dtype)


def _write(V: Tensor, y: Tensor, post: Tensor, R: Tensor) -> Tensor:
    return torch.einsum("tij,jtc->itc", R, V) + post.t()[..., None] * y


def _write_backward(g: Tensor, X: Tensor, y: Tensor, mix: Tensor, n: int, axis: int) -> tuple[Tensor, Tensor, Tensor]:
    V, branch, coefficients = _operands(X, y, mix, axis)
    post, R = _unpack(coefficients, n, X.shape[0])
    gX = torch.einsum("tij,itc->jtc", R, g)
    gy = torch.einsum("ti,itc->tc", post, g)
    gpost = torch.einsum("itc,tc->ti", g, branch)
    gR = torch.einsum("itc,jtc->tij", g, V).expand(-1, n, n)
    gmix = torch.cat((gpost, gR.reshape(-1, n * n)), 1)
    shape = y.shape
    return from_rows(gX, shape, axis).to(X.dtype), from_rows(gy, shape, axis).to(y.dtype), gmix.to(mix.dtype)


def _coefficients(z: Tensor, alpha: Tensor, bias: Tensor, n: int) -> tuple[Tensor, Tensor, Tensor]:
    """Pre `[T, n]`, post `[T, n]` and R `[T, n * n]` from the normed projection."""
    logits = z * _columns(alpha.to(z.dtype), n) + bias.to(z.dtype)
    R = sinkhorn_forward(_matrices(logits[:, 2 * n :], n), reference.SINKHORN_ITERATIONS)
    return torch.sigmoid(logits[:, :n]), 2 * torch.sigmoid(logits[:, n : 2 * n]), R.flatten(0, 1).t()


def _mixing_backward(gR: Tensor, z: Tensor, alpha: Tensor, bias: Tensor, n: int) -> Tensor:
    logits = (z * _columns(alpha.to(z.dtype), n) + bias.to(z.dtype))[:, 2 * n :]
    g = sinkhorn_backward(_matrices(gR, n), _matrices(logits, n), reference.SINKHORN_ITERATIONS)
    return g.flatten(0, 1).t()


def _matrices(columns: Tensor, n: int) -> Tensor:
    return columns.t().reshape(n, n, -1)


def _columns(alpha: Tensor, n: int) -> Tensor:
    """`alpha [3]`, each repeated over the columns it scales: `[K]`."""
    return torch.cat([part.expand(size) for part, size in zip(alpha, (n, n, n * n), strict=True)])


def _blocks(phi: Tensor, V: Tensor, n: int) -> Tensor:
    """Phi as `[m, C, K]`: for streams that are equal (m = 1), the sum over their blocks."""
    blocks = phi.to(V.dtype).reshape(n, V.shape[2], phi.shape[1])
    return blocks if V.shape[0] == n else blocks.sum(0, keepdim=True)


def _per_stream(pre: Tensor, V: Tensor) -> Tensor:
    """Pre `[T, n]` as `[T, m]`: for streams that are equal (m = 1), their sum."""
    return pre if V.shape[0] == pre.shape[1] else pre.sum(1, keepdim=True)


def _unpack(mix: Tensor, n: int, streams: int) -> tuple[Tensor, Tensor]:
    """Post `[T, n]` and R `[T, n, m]`: for streams that are equal (m = 1), the row sums."""
    R = mix[:, n:].reshape(-1, n, n)
    return mix[:, :n], R if streams == n else R.sum(2, keepdim=True)


def _operands(X: Tensor, y: Tensor, mix: Tensor, axis: int) -> tuple[Tensor, Tensor, Tensor]:
    """Rows of X and of y, and mix, all in the coefficient dtype of the result."""
    dtype = reference.coefficient_dtype(torch.promote_types(X.dtype, y.dtype))
    return _rows(X, axis).to(dtype), _rows(y[None], axis)[0].to(dtype), mix.to(dtype)


def _rows(X: Tensor, axis: int) -> Tensor:
    return to_rows(X, axis).to(reference.coefficient_dtype(X.dtype))
