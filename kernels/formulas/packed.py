"""The fused steps of the connections with a `Manifold` in plain PyTorch: what every kernel is held against.

A step is a gate (coefficients and read in one scan), a write, their fusion across two sites (boundary), or the fusion
of the last write with the readout (leave). Single-pass connections, whose sites are read with the read weights of the
site before, have a gate and a boundary of their own. All have their backward spelled out, each quantity once.

Shapes, for n streams of C channels and T tokens:

* `X [m, *x.shape]`, `m == n`, or `m == 1` at the entry of a segment, where all n streams are equal to X[0].
* `pre [T, n]`: read weights, where they are an operand.
* `mix [T, n + n * n]`: post, then R row-major (rows index the output stream), one row per token.
* `stat [T, K + S]`, K = 2n + L: the normed projection z, then 1 / rms, or what else `norms.py` keeps. For the backward,
  has no gradient. L is the number of logits of the connection's matrix, n * n for Sinkhorn.
* `phi [n * C, K]`, `alpha [3]` (`[2]` where L = 0), `bias [K]`, order pre, post, R, as in
  `reference.manifold_coefficients`.

`mix` and `stat` are fp32, fp64 for fp64 streams (`reference.coefficient_dtype`). Source of the formulas: Xie et al.,
arXiv 2512.24880; the gradients follow from them.
"""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import Tensor

from mhc_compile.kernels.formulas import coefficients
from mhc_compile.kernels.formulas.layout import from_rows
from mhc_compile.kernels.formulas.lookup import manifold_of

SINGLE_PASS = "mhc-single-pass"
FORWARD_STEPS = ("gate", "write", "boundary", "leave", "single_gate", "single_boundary")
STEPS = (*FORWARD_STEPS, *(f"{step}_backward" for step in FORWARD_STEPS))
"""Names of these functions, of the operators for them, and of the functions in the modules of schedules."""


def gate(
    X: Tensor, phi: Tensor, alpha: Tensor, bias: Tensor, n: int, axis: int, connection: str = "mhc"
) -> tuple[Tensor, Tensor, Tensor]:
    """Coefficients from the streams, and the read: `(u [*x.shape], mix, stat)`."""
    V = coefficients.rows(X, axis)
    pre, mix, stat = coefficients.gate(V, phi, alpha, bias, n, manifold_of(connection))
    u = (coefficients.per_stream(pre, V)[..., None] * V.movedim(0, 1)).sum(1)
    return from_rows(u, X.shape[1:], axis).to(X.dtype), mix, stat


def write(X: Tensor, y: Tensor, mix: Tensor, n: int, axis: int) -> Tensor:
    """The next streams `[n, *x.shape]`: `X'_i = sum_j R_ij X_j + post_i y`, in the dtype that `X + y` has."""
    V, branch, packed = coefficients.operands(X, y, mix, axis)
    rows = _write(V, branch, *coefficients.unpack(packed, n, X.shape[0]))
    return from_rows(rows, y.shape, axis).to(torch.promote_types(X.dtype, y.dtype))


def boundary(
    X: Tensor,
    y: Tensor,
    mix: Tensor,
    phi: Tensor,
    alpha: Tensor,
    bias: Tensor,
    n: int,
    axis: int,
    connection: str = "mhc",
) -> tuple[Tensor, Tensor, Tensor, Tensor]:
    """`write`, and the `gate` of the next site on its result: `(X', u', mix', stat')`."""
    following = write(X, y, mix, n, axis)
    return following, *gate(following, phi, alpha, bias, n, axis, connection)


def leave(X: Tensor, y: Tensor, mix: Tensor, n: int, axis: int, scale: float) -> Tensor:
    """The last write and the readout: `scale * sum_i X'_i [*x.shape]` without X', in the dtype that `X + y` has."""
    V, branch, packed = coefficients.operands(X, y, mix, axis)
    post, R = coefficients.unpack(packed, n, X.shape[0])
    out = (R.sum(1)[..., None] * V.movedim(0, 1)).sum(1) + post.sum(1)[:, None] * branch
    return from_rows(scale * out, y.shape, axis).to(torch.promote_types(X.dtype, y.dtype))


def restore(X: Tensor, past: Sequence[Tensor], n: int, axis: int) -> Tensor:
    """Streams `[n, *x.shape]` from earlier ones: the writes of the sites between, `past = (y, mix, y, mix, ...)`."""
    for y, mix in zip(past[::2], past[1::2], strict=True):
        X = write(X, y, mix, n, axis)
    return X


def gate_backward(
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
) -> tuple[Tensor, Tensor, Tensor, Tensor]:
    """Gradients of `gate` for X, phi, alpha and bias from those of u and mix."""
    V = coefficients.rows(X, axis)
    gV, gphi, galpha, gbias = _read_backward(gu, gmix, V, phi, alpha, bias, stat, n, axis, connection)
    return from_rows(gV, X.shape[1:], axis).to(X.dtype), gphi, galpha, gbias


def write_backward(g: Tensor, X: Tensor, y: Tensor, mix: Tensor, n: int, axis: int) -> tuple[Tensor, Tensor, Tensor]:
    """Gradients of `write` for X, y and mix from that of X'."""
    return _write_backward(coefficients.rows(g, axis), X, y, mix, n, axis)


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
    connection: str = "mhc",
) -> tuple[Tensor, Tensor, Tensor, Tensor, Tensor, Tensor]:
    """Gradients of `boundary` for X, y, mix, phi, alpha and bias from those of X', u' and mix'; X' is recomputed."""
    V = coefficients.rows(write(X, y, mix, n, axis), axis)
    gV, gphi, galpha, gbias = _read_backward(gu, gmix, V, phi, alpha, bias, stat, n, axis, connection)
    return *_write_backward(gV + coefficients.rows(g, axis), X, y, mix, n, axis), gphi, galpha, gbias


def leave_backward(
    g: Tensor, X: Tensor, y: Tensor, mix: Tensor, n: int, axis: int, scale: float
) -> tuple[Tensor, Tensor, Tensor]:
    """Gradients of `leave` for X, y and mix from that of its result: every stream of X' gets `scale * g`."""
    return _write_backward((scale * coefficients.rows(g[None], axis)).expand(n, -1, -1), X, y, mix, n, axis)


def single_gate(
    X: Tensor, phi: Tensor, alpha: Tensor, bias: Tensor, n: int, axis: int, connection: str = SINGLE_PASS
) -> tuple[Tensor, Tensor, Tensor]:
    """Coefficients from the streams, and no read: `(pre, mix, stat)`."""
    return coefficients.gate(coefficients.rows(X, axis), phi, alpha, bias, n, manifold_of(connection))


def single_boundary(
    X: Tensor,
    y: Tensor,
    mix: Tensor,
    pre: Tensor,
    phi: Tensor,
    alpha: Tensor,
    bias: Tensor,
    n: int,
    axis: int,
    connection: str = SINGLE_PASS,
) -> tuple[Tensor, Tensor, Tensor, Tensor, Tensor]:
    """`write`, the read of its result with `pre`, and the `single_gate` on it: `(X', u', pre', mix', stat')`.

    `pre` belongs to the site that writes, so all of it is known before X' is.
    """
    following = write(X, y, mix, n, axis)
    V = coefficients.rows(following, axis)
    u = from_rows((pre.to(V.dtype)[..., None] * V.movedim(0, 1)).sum(1), y.shape, axis).to(following.dtype)
    return following, u, *coefficients.gate(V, phi, alpha, bias, n, manifold_of(connection))


def single_gate_backward(
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
) -> tuple[Tensor, Tensor, Tensor, Tensor]:
    """Gradients of `single_gate` for X, phi, alpha and bias from those of pre and mix."""
    V = coefficients.rows(X, axis)
    gV, *rest = coefficients.gate_backward(gpre, gmix, V, phi, alpha, bias, stat, n, manifold_of(connection))
    return from_rows(gV, X.shape[1:], axis).to(X.dtype), *rest  # type: ignore[return-value]


def single_boundary_backward(
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
) -> tuple[Tensor, Tensor, Tensor, Tensor, Tensor, Tensor, Tensor]:
    """Gradients of `single_boundary` for X, y, mix, pre, phi, alpha and bias from those of X', u', pre' and mix'."""
    V = coefficients.rows(write(X, y, mix, n, axis), axis)
    rows = coefficients.rows(gu[None], axis)[0]
    gV, *rest = coefficients.gate_backward(gpre, gmix, V, phi, alpha, bias, stat, n, manifold_of(connection))
    gV = gV + coefficients.rows(g, axis) + pre.to(V.dtype).t()[..., None] * rows
    of_pre = torch.einsum("tc,itc->ti", rows, V).to(pre.dtype)
    return *_write_backward(gV, X, y, mix, n, axis), of_pre, *rest  # type: ignore[return-value]


def _read_backward(
    gu: Tensor,
    gmix: Tensor,
    V: Tensor,
    phi: Tensor,
    alpha: Tensor,
    bias: Tensor,
    stat: Tensor,
    n: int,
    axis: int,
    connection: str,
) -> tuple[Tensor, Tensor, Tensor, Tensor]:
    """Gradients of a gate with its read, for the rows V, phi, alpha and bias."""
    manifold, rows = manifold_of(connection), coefficients.rows(gu[None], axis)[0]
    gpre = torch.einsum("tc,mtc->tm", rows, V).expand(-1, n)
    z, _ = coefficients.statistics(stat, n, manifold)
    pre = coefficients.coefficients(z, alpha, bias, n, manifold)[0]
    gV, *parameters = coefficients.gate_backward(gpre, gmix, V, phi, alpha, bias, stat, n, manifold)
    return coefficients.per_stream(pre, V).t()[..., None] * rows + gV, *parameters  # type: ignore[return-value]


def _write(V: Tensor, y: Tensor, post: Tensor, R: Tensor) -> Tensor:
    return torch.einsum("tij,jtc->itc", R, V) + post.t()[..., None] * y


def _write_backward(g: Tensor, X: Tensor, y: Tensor, mix: Tensor, n: int, axis: int) -> tuple[Tensor, Tensor, Tensor]:
    V, branch, packed = coefficients.operands(X, y, mix, axis)
    post, R = coefficients.unpack(packed, n, X.shape[0])
    gX = torch.einsum("tij,itc->jtc", R, g)
    gy = torch.einsum("ti,itc->tc", post, g)
    gpost = torch.einsum("itc,tc->ti", g, branch)
    gR = torch.einsum("itc,jtc->tij", g, V).expand(-1, n, n)
    gmix = torch.cat((gpost, gR.reshape(-1, n * n)), 1)
    shape = y.shape
    return from_rows(gX, shape, axis).to(X.dtype), from_rows(gy, shape, axis).to(y.dtype), gmix.to(mix.dtype)
