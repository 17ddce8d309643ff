"""Sinkhorn and its backward as parts of Triton kernels: the functions of `formulas/sinkhorn.py` on `[BT, NP, NP]`."""

from __future__ import annotations

import triton
import triton.language as tl

from mhc_compile.kernels.triton.parts import matrix_tile


@triton.jit
def mixing_logits(stat, alpha, bias, t, live, n: tl.constexpr, NP: tl.constexpr):
    """`alpha_res z_res + b_res` as `[BT, NP, NP]`, rows first, far below any logit where padded."""
    at, mask, inside = matrix_tile(t, live, n * n + 2 * n + 1, 2 * n, n, NP)
    z = tl.load(stat + at, mask=mask, other=0.0)
    i = tl.arange(0, NP)
    flat = (i[:, None] * n + i[None, :])[None, :, :]
    b = tl.load(bias + 2 * n + flat, mask=inside, other=0.0).to(tl.float32)
    return tl.where(inside, z * tl.load(alpha + 2) + b, -1e30), inside


@triton.jit
def log_columns(logits):
    """Log-softmax over the rows index: the first division by column sums."""
    shifted = logits - tl.max(logits, 1, keep_dims=True)
    return shifted - tl.log(tl.sum(tl.exp(shifted), 1, keep_dims=True))


@triton.jit
def first_rows(columns, inside):
    """Softmax over the columns index, 0 where padded."""
    columns = tl.where(inside, columns, -1e30)
    E = tl.exp(columns - tl.max(columns, 2, keep_dims=True))
    return tl.where(inside, E / tl.sum(E, 2, keep_dims=True), 0.0)


@triton.jit
def sums(M, axis: tl.constexpr):
    """Sums over the rows index (1) or the columns index (2), at least the smallest normal number; NaN stays."""
    total = tl.sum(M, axis, keep_dims=True)
    return tl.where(total < 1.1754943508222875e-38, 1.1754943508222875e-38, total)


@triton.jit
def sinkhorn_tile(logits, inside, ITERATIONS: tl.constexpr):
    """`reference.sinkhorn` of `[BT, NP, NP]`, 0 where padded.

    A GPU divides to within two units in the last place; one step of Newton's method brings the sums of the rows to 1
    within rounding. More than that tips bf16 results that lie between two numbers.
    """
    M = first_rows(log_columns(logits), inside)
    for _ in range(ITERATIONS - 1):
        M = M / sums(M, 1)
        M = M / sums(M, 2)
    return M * (2.0 - tl.sum(M, 2, keep_dims=True))


@triton.jit
def sinkhorn_tile_backward(grad, logits, inside, ITERATIONS: tl.constexpr):
    """`sinkhorn.sinkhorn_backward`; only the totals are kept, since a matrix is the next one times its total."""
    columns = log_columns(logits)
    M = first_rows(columns, inside)
    totals = ()
    for step in tl.static_range(2 * ITERATIONS - 2):
        total = sums(M, 1 + step % 2)
        M = M / total
        totals = totals + (total,)
    for back in tl.static_range(2 * ITERATIONS - 2):
        total = totals[2 * ITERATIONS - 3 - back]
        inner = tl.sum(grad * M, 2 - back % 2, keep_dims=True)
        grad = tl.where(total > 1.1754943508222875e-38, (grad - inner) / total, 0.0)
        M = M * total
    grad = M * (grad - tl.sum(grad * M, 2, keep_dims=True))
    return grad - tl.exp(columns) * tl.sum(grad, 1, keep_dims=True)
