"""The formulas, one plain function each, in the dtype and layout of their arguments.

Layout: `x` is any tensor of rank >= 2 with its channels at index `axis`; the streams `X` are `[n, *x.shape]`.
"token dims" below means the dims of `x` with size 1 at `axis`, so every coefficient broadcasts against a stream.
The same functions serve the entry of a segment, where all streams are equal: there `X` is `x[None]`, one stream that
stands for all n of them.

Sources: Xie et al., mHC, arXiv 2512.24880 (`manifold_coefficients`, `sinkhorn`); Zhu et al., Hyper-Connections,
arXiv 2409.19606 (`hyper_coefficients`).
"""

from __future__ import annotations

from collections.abc import Callable, Sequence

import torch
from torch import Tensor

RMS_EPS = 1e-6
LAYER_NORM_EPS = 1e-5
SINKHORN_ITERATIONS = 20

Coefficients = tuple[Tensor, Tensor, Tensor]


def coefficient_dtype(dtype: torch.dtype) -> torch.dtype:
    """The dtype of all coefficients: fp64 for fp64 streams, else fp32."""
    return torch.float64 if dtype == torch.float64 else torch.float32


def over_tokens(values: Tensor, like: Tensor) -> Tensor:
    """`values` followed by one dim of size 1 per dim of a single stream of `like` (`[n, *x.shape]`)."""
    return values.reshape(*values.shape, *(1,) * (like.ndim - 1))


def normed_projection(X: Tensor, phi: Tensor, *, n: int, axis: int) -> Tensor:
    """`z = (v @ phi) * rsqrt(mean(v^2) + eps)` with `v = concat_i X_i`, stream-major.

    Streams are projected one by one against their own rows of `phi`, so `v` is never laid out in memory.

    Args:
        X: streams `[n, *x.shape]`, or `[1, *x.shape]` when all n are equal; then the blocks of `phi` are summed first.
        phi: `[n * C, K]`, cast to the coefficient dtype.
        n: number of streams.
        axis: index of the channels in `x`.

    Returns:
        `[K, *token dims]` in the coefficient dtype.
    """
    dtype = coefficient_dtype(X.dtype)
    channels = X.shape[axis + 1]
    blocks = phi.to(dtype).reshape(n, channels, phi.shape[1])
    if X.shape[0] != n:
        blocks = blocks.sum(0, keepdim=True)
    streams = [stream.movedim(axis, -1).to(dtype) for stream in X.unbind(0)]
    product = streams[0] @ blocks[0]
    square = streams[0].square().mean(-1, keepdim=True)
    for stream, block in zip(streams[1:], blocks.unbind(0)[1:], strict=True):
        product = product + stream @ block
        square = square + stream.square().mean(-1, keepdim=True)
    z = product * torch.rsqrt(square / len(streams) + RMS_EPS)
    return z.movedim(-1, 0).unsqueeze(axis + 1).contiguous()  # streams would take its layout, n innermost


def read_gate(z: Tensor, alpha: Tensor, bias: Tensor) -> Tensor:
    """`pre = sigmoid(alpha z + bias)`; all three broadcast."""
    return torch.sigmoid(alpha * z + bias)


def write_gate(z: Tensor, alpha: Tensor, bias: Tensor, magnitude: float = 2.0) -> Tensor:
    """`post = magnitude * sigmoid(alpha z + bias)`; all three tensors broadcast."""
    return magnitude * torch.sigmoid(alpha * z + bias)


def sinkhorn(logits: Tensor, *, iterations: int = SINKHORN_ITERATIONS) -> Tensor:
    """`M = exp(L)` over its column sums, then over its row sums, then `iterations - 1` times (columns, rows).

    The numbers of DeepSeek's code, which holds `comb = R^T`: softmax over the last axis, columns, then (rows, columns).
    No row maximum is subtracted: a scaling of the rows moves the start of the iteration, and with it the result after
    finitely many. The first columns and rows are divided in the log domain, and a column that underflows as a whole
    stays 0: the result is finite, with rows that sum to 1, for all finite logits.

    Args:
        logits: `[n, n, ...]`, rows first.
        iterations: at least 1.

    Returns:
        `[n, n, ...]` with rows that sum to 1 to rounding and columns that do so approximately.
    """
    M = torch.softmax(torch.log_softmax(logits, dim=0), dim=1)
    for _ in range(iterations - 1):
        M = M / M.sum(0, keepdim=True).clamp_min(torch.finfo(M.dtype).tiny)
        M = M / M.sum(1, keepdim=True)
    return M


def manifold_coefficients(
    X: Tensor,
    params: Sequence[Tensor],
    *,
    n: int,
    axis: int,
    matrix: Callable[[Tensor, int], Tensor],
    magnitude: float = 2.0,
    eps: float = 0.0,
) -> Coefficients:
    """Coefficients of the mhc family: gated read and write, a mixing matrix on a manifold.

    Args:
        X: streams `[n, *x.shape]`, or `[1, *x.shape]` when all n are equal.
        params: `phi [nC, 2n + L]`, `alpha [3]` (or `[2]` where L = 0), `bias [2n + L]`, in the order pre, post, res.
        n: number of streams.
        axis: index of the channels in `x`.
        matrix: maps logits `[L, *token dims]` and n to `R [n, n, ...]`.
        magnitude: of the write gate.
        eps: what both gates are at least.

    Returns:
        pre and post `[n, *token dims]`, R `[n, n, *token dims]` (size 1 where constant), in the coefficient dtype.
    """
    phi, alpha, bias = params
    z = normed_projection(X, phi, n=n, axis=axis)
    scale, shift = (over_tokens(p.to(z.dtype), X) for p in (alpha, bias))
    pre = read_gate(z[:n], scale[0], shift[:n])
    post = write_gate(z[n : 2 * n], scale[1], shift[n : 2 * n], magnitude)
    if eps:
        pre, post = pre + eps, post + eps
    return pre, post, matrix(scale[2:] * z[2 * n :] + shift[2 * n :], n)


def hyper_coefficients(X: Tensor, params: Sequence[Tensor], *, n: int, axis: int) -> Coefficients:
    """Coefficients of dynamic hyper-connections: `static + scale * tanh(norm(X_j) W)`, each from its own stream.

    Args:
        X: streams `[n, *x.shape]`, or `[1, *x.shape]` when all n are equal.
        params: `static_pre [n]`, `static_post [n]`, `static_res [n, n]` (the paper's A_r, rows index the *input*
            stream), `w_pre [C]`, `w_post [C]`, `w_res [C, n]`, `scale_pre [1]`, `scale_post [1]`, `scale_res [1]`.
        n: number of streams.
        axis: index of the channels in `x`.

    Returns:
        pre and post `[n, *token dims]`, R `[n, n, *token dims]` (rows index the output stream), coefficient dtype.
    """
    dtype = coefficient_dtype(X.dtype)
    w_pre, w_post, w_res, *scales = (p.to(dtype) for p in params[3:])
    pre, post, R = static_coefficients(X, params[:3])
    V = X.movedim(axis + 1, -1).to(dtype)
    normed = torch.nn.functional.layer_norm(V, V.shape[-1:], eps=LAYER_NORM_EPS)
    weights = torch.cat((w_pre.unsqueeze(1), w_post.unsqueeze(1), w_res), dim=1)
    dynamic = torch.tanh(normed @ weights).movedim(-1, 0).unsqueeze(axis + 2)
    # The last axis of w_res is the output stream and X's leading axis the input stream: dynamic[2:] is already R.
    scale_pre, scale_post, scale_res = scales
    return pre + scale_pre * dynamic[0], post + scale_post * dynamic[1], R + scale_res * dynamic[2:]


def static_coefficients(X: Tensor, params: Sequence[Tensor]) -> Coefficients:
    """Coefficients of static hyper-connections: `static_pre [n]`, `static_post [n]`, `static_res [n, n]` themselves.

    The paper mixes with `A_r^T H`, rows of A_r indexing the input stream, while rows of R index the output stream,
    hence the transpose. Every token dim of the result has size 1.
    """
    pre, post, A = (p.to(coefficient_dtype(X.dtype)) for p in params)
    return over_tokens(pre, X), over_tokens(post, X), over_tokens(A.t(), X)


def plain_coefficients(X: Tensor) -> Coefficients:
    """The plain residual connection, n = 1: pre = post = R = 1, every token dim of size 1."""
    ones = X.new_ones(1, dtype=coefficient_dtype(X.dtype))
    return over_tokens(ones, X), over_tokens(ones, X), over_tokens(ones.unsqueeze(0), X)


def read(X: Tensor, pre: Tensor) -> Tensor:
    """`u = sum_i pre_i X_i`, accumulated in the coefficient dtype, returned in the dtype and memory layout of X."""
    total = X[0] * pre[0]  # in this order, so that the layout is not that of the coefficients
    for i in range(1, X.shape[0]):
        total = total + X[i] * pre[i]
    return total.to(X.dtype)


def write(X: Tensor, y: Tensor, post: Tensor, R: Tensor) -> Tensor:
    """`X'_i = sum_j R_ij X_j + post_i y`, accumulated in the coefficient dtype or wider.

    One term per input stream, so no temporary is larger than X. Returned in the dtype that `X + y` would have.
    """
    total = y * post
    for j in range(X.shape[0]):
        total = total + X[j] * R[:, j]
    return total.to(torch.promote_types(X.dtype, y.dtype))


def mean_weights(X: Tensor) -> Tensor:
    """`pre` that makes `read` the mean over streams: 1/n, every token dim of size 1."""
    ones = X.new_ones(X.shape[0], dtype=coefficient_dtype(X.dtype))
    return over_tokens(ones / X.shape[0], X)


def sum_weights(X: Tensor) -> Tensor:
    """`pre` that makes `read` the sum over streams: 1, every token dim of size 1."""
    return over_tokens(X.new_ones(X.shape[0], dtype=coefficient_dtype(X.dtype)), X)


def learned_weights(X: Tensor, params: Sequence[Tensor], *, axis: int) -> Tensor:
    """`sigmoid(alpha z + bias) [n, *token dims]`, the learned readout, from `phi [nC, n]`, `alpha [1]`, `bias [n]`."""
    phi, alpha, bias = params
    z = normed_projection(X, phi, n=X.shape[0], axis=axis)
    return read_gate(z, *(over_tokens(p.to(z.dtype), X) for p in (alpha, bias)))
