"""From the rows of streams to their coefficients and back, with every gradient spelled out.

`V [m, T, C]` are m streams as rows of tokens, m == 1 where one stands for all n; other shapes are those of `packed.py`.
"""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor

from mhc_compile.kernels.formulas import norms, reference
from mhc_compile.kernels.formulas.layout import to_rows
from mhc_compile.kernels.formulas.lookup import manifold_of
from mhc_compile.kernels.formulas.manifolds import Manifold
from mhc_compile.kernels.formulas.sinkhorn import sinkhorn_forward


def gate(
    V: Tensor, phi: Tensor, alpha: Tensor, bias: Tensor, n: int, manifold: Manifold
) -> tuple[Tensor, Tensor, Tensor]:
    """Pre `[T, n]`, mix and stat."""
    found = norms.statistics(V, n, manifold)
    z = torch.einsum("mtc,mck->tk", V, blocks(phi, V, n)) * norms.inverses(found, n, manifold)
    pre, post, R = coefficients(z, alpha, bias, n, manifold)
    return pre, torch.cat((post, R), 1), torch.cat((z, found), 1)


def gate_backward(
    gpre: Tensor,
    gmix: Tensor,
    V: Tensor,
    phi: Tensor,
    alpha: Tensor,
    bias: Tensor,
    stat: Tensor,
    n: int,
    manifold: Manifold,
) -> tuple[Tensor, Tensor, Tensor, Tensor]:
    """Gradients of the coefficients alone, from those of pre `[T, n]` and mix."""
    z, found = statistics(stat, n, manifold)
    scale, response = columns(alpha.to(z.dtype), n, manifold), norms.response(z, manifold)
    glogits = logits_backward(gpre, gmix, response * scale + bias.to(z.dtype), n, manifold)
    gz = glogits * scale * norms.slopes(z, manifold)[0]
    gq = gz * norms.inverses(found, n, manifold)  # z = (v @ phi) * inverse, which depends on v as well: the second term
    gV = gq @ blocks(phi, V, n).transpose(1, 2)
    shrink = norms.per_stream(found, V, n, manifold).square() * norms.own(gz * z, V, n, manifold)
    gV = gV - shrink * norms.centred(V, found, n, manifold)
    gphi = (V.transpose(1, 2) @ gq).expand(n, -1, -1).reshape(phi.shape)
    galpha = torch.stack([part.sum() for part in (glogits * response).split(manifold.parts(n), 1)])
    return gV, gphi.to(phi.dtype), galpha.to(alpha.dtype), glogits.sum(0).to(bias.dtype)


def logits_backward(gpre: Tensor, gmix: Tensor, logits: Tensor, n: int, manifold: Manifold) -> Tensor:
    """Gradients of the logits `[T, K]` from those of pre, and of post and R in `gmix`."""
    if manifold.hyper:
        return torch.cat((gpre, gmix), 1)
    gates = torch.sigmoid(logits[:, : 2 * n])
    slopes = gates * (1 - gates)
    backward = manifold.row.backward
    assert backward is not None
    gR = gmix[:, n:].t().reshape(n, n, -1)
    mixing = backward(gR, logits[:, 2 * n :].t(), n).t()
    return torch.cat((gpre * slopes[:, :n], gmix[:, :n] * slopes[:, n:] * manifold.magnitude, mixing), 1)


def coefficients(z: Tensor, alpha: Tensor, bias: Tensor, n: int, manifold: Manifold) -> tuple[Tensor, Tensor, Tensor]:
    """Pre `[T, n]`, post `[T, n]` and R `[T, n * n]` from the normed projection."""
    logits = norms.response(z, manifold) * columns(alpha.to(z.dtype), n, manifold) + bias.to(z.dtype)
    return from_logits(logits, n, manifold)


def statistics(stat: Tensor, n: int, manifold: Manifold) -> tuple[Tensor, Tensor]:
    """The normed projection z `[T, K]`, and what is kept of the norms `[T, S]`."""
    count = manifold.columns(n)
    return stat[:, :count], stat[:, count:]


def from_logits(logits: Tensor, n: int, manifold: Manifold) -> tuple[Tensor, Tensor, Tensor]:
    """Pre `[T, n]`, post `[T, n]` and R `[T, n * n]` from logits `[T, K]`."""
    if manifold.hyper:
        return logits[:, :n], logits[:, n : 2 * n], logits[:, 2 * n :]
    pre, post = torch.sigmoid(logits[:, :n]), manifold.magnitude * torch.sigmoid(logits[:, n : 2 * n])
    R = _matrices(logits[:, 2 * n :].t(), n, manifold)
    return pre + manifold.eps, post + manifold.eps, R.flatten(0, 1).t()


def _matrices(logits: Tensor, n: int, manifold: Manifold) -> Tensor:
    """R `[n, n, T]` from logits `[L, T]`, by operators of PyTorch alone."""
    if manifold.projection == "sinkhorn":
        return sinkhorn_forward(logits.reshape(n, n, -1), reference.SINKHORN_ITERATIONS)
    return manifold.row.matrix(logits, n).expand(n, n, logits.shape[1])


def tangents(
    logits: Tensor, along: Tensor, gpre: Tensor, gpre_along: Tensor, gmix: Tensor, n: int, connection: str
) -> tuple[Tensor, Tensor, Tensor, Tensor, Tensor]:
    """What gates and matrix, and the gradients of their logits, change by along a direction.

    Args:
        logits: `[T, K]`, the direction `along` likewise.
        along: see `logits`.
        gpre: gradient of pre `[T, n]`, and what it changes by.
        gpre_along: see `gpre`.
        gmix: gradient of post and R `[T, n + n * n]`, which stays.
        n: number of streams.
        connection: one with a manifold.

    Returns:
        pre `[T, n]`, its change, that of mix; the gradients of the logits `[T, K]` and their change.
    """
    manifold = manifold_of(connection)
    backward = manifold.row.backward
    assert backward is not None

    def both(logits: Tensor, gpre: Tensor) -> tuple[Tensor, ...]:
        pre, post, R = from_logits(logits, n, manifold)
        return pre, torch.cat((post, R), 1), logits_backward(gpre, gmix, logits, n, manifold)

    found: Any = torch.func.jvp(both, (logits, gpre), (along, gpre_along))
    (pre, _, back), (pre_along, mix_along, back_along) = found
    return pre, pre_along, mix_along, back, back_along


def columns(alpha: Tensor, n: int, manifold: Manifold) -> Tensor:
    """`alpha`, each entry repeated over the columns it scales: `[K]`."""
    return torch.cat([part.expand(size) for part, size in zip(alpha, manifold.parts(n), strict=True)])


def blocks(phi: Tensor, V: Tensor, n: int) -> Tensor:
    """Phi as `[m, C, K]`: for streams that are equal (m = 1), the sum over their blocks."""
    found = phi.to(V.dtype).reshape(n, V.shape[2], phi.shape[1])
    return found if V.shape[0] == n else found.sum(0, keepdim=True)


def per_stream(pre: Tensor, V: Tensor) -> Tensor:
    """Pre `[T, n]` as `[T, m]`: for streams that are equal (m = 1), their sum."""
    return pre if V.shape[0] == pre.shape[1] else pre.sum(1, keepdim=True)


def unpack(mix: Tensor, n: int, streams: int) -> tuple[Tensor, Tensor]:
    """Post `[T, n]` and R `[T, n, m]`: for streams that are equal (m = 1), the row sums."""
    R = mix[:, n:].reshape(-1, n, n)
    return mix[:, :n], R if streams == n else R.sum(2, keepdim=True)


def operands(X: Tensor, y: Tensor, mix: Tensor, axis: int) -> tuple[Tensor, Tensor, Tensor]:
    """Rows of X and of y, and mix, all in the coefficient dtype of the result."""
    dtype = reference.coefficient_dtype(torch.promote_types(X.dtype, y.dtype))
    return rows(X, axis).to(dtype), rows(y[None], axis)[0].to(dtype), mix.to(dtype)


def rows(X: Tensor, axis: int) -> Tensor:
    """Streams as rows of tokens `[m, T, C]`, in the coefficient dtype."""
    return to_rows(X, axis).to(reference.coefficient_dtype(X.dtype))
