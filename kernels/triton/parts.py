"""What the Triton kernels of the fused steps share: tiles, coefficients, Sinkhorn.

A program takes one tile of BT tokens and BC channels, or walks over the channels, or over the tokens. Tuples hold one
tile or one column of coefficients per stream, unrolled at compile time. `stat`, `mix` and the matrices of Sinkhorn are
laid out as `packed.py` says; NP and KP are n and K padded to powers of two, and padding is masked
everywhere.
"""

from __future__ import annotations

import triton
import triton.language as tl


@triton.jit
def token_block(block, T, inner, C: tl.constexpr, BT: tl.constexpr, LAST: tl.constexpr):
    """The tokens of a block, which of them exist, and where each begins in a stream (`layout.Layout`).

    With the channels last a block is BT neighbouring tokens; else BT neighbours within one outer index, so that loads
    along the tokens are contiguous.
    """
    if LAST:
        t = tl.cast(block, tl.int64) * BT + tl.arange(0, BT)
        live = t < T
        start = t * C
    else:
        blocks = tl.cdiv(inner, BT)
        outer = tl.cast(block // blocks, tl.int64)
        i = (block % blocks) * BT + tl.arange(0, BT)
        t = outer * inner + i
        live = i < inner
        start = outer * C * inner + i
    return t, live, start


@triton.jit
def tile(start, live, c0, inner, C: tl.constexpr, BC: tl.constexpr, LAST: tl.constexpr):
    """Offsets in a stream of channels c0 to c0 + BC for a block of tokens, and which of them exist: `[BT, BC]`."""
    c = c0 + tl.arange(0, BC)
    if LAST:
        at = start[:, None] + c[None, :]
    else:
        at = start[:, None] + (c * tl.cast(inner, tl.int64))[None, :]
    mask = live[:, None] & (c >= 0)[None, :] if C % BC == 0 else live[:, None] & (c < C)[None, :]
    return at, mask


@triton.jit
def load_tile(pointer, at, mask):
    """A tile as fp32, 0 where there is nothing."""
    return tl.load(pointer + at, mask=mask, other=0.0).to(tl.float32)


@triton.jit
def load_streams(X, at, mask, stride, m: tl.constexpr):
    """The tiles of m streams."""
    xs = ()
    for j in tl.static_range(m):
        xs = xs + (load_tile(X, j * stride + at, mask),)
    return xs


@triton.jit
def column(pointer, t, live, width: tl.constexpr, k: tl.constexpr):
    """Column k of a `[T, width]` table for a block of tokens, as `[BT, 1]`."""
    return tl.load(pointer + (t * width + k)[:, None], mask=live[:, None], other=0.0)


@triton.jit
def write_weights(mix, t, live, n: tl.constexpr, m: tl.constexpr):
    """Post (n columns) and R (n * m columns, row-major); for equal streams (m = 1) the row sums of R."""
    post = ()
    R = ()
    for i in tl.static_range(n):
        post = post + (column(mix, t, live, n + n * n, i),)
        if m == n:
            for j in tl.static_range(n):
                R = R + (column(mix, t, live, n + n * n, n + i * n + j),)
        else:
            total = column(mix, t, live, n + n * n, n + i * n)
            for j in tl.static_range(1, n):
                total += column(mix, t, live, n + n * n, n + i * n + j)
            R = R + (total,)
    return post, R


@triton.jit
def written(xs, branch, post, R, i: tl.constexpr, m: tl.constexpr):
    """Stream i behind a write: `sum_j R_ij X_j + post_i y`."""
    v = post[i] * branch
    for j in tl.static_range(m):
        v += R[i * m + j] * xs[j]
    return v


@triton.jit
def written_streams(xs, branch, mix, t, live, n: tl.constexpr, m: tl.constexpr, dtype: tl.constexpr):
    """All n streams behind a write, rounded as they are stored."""
    post, R = write_weights(mix, t, live, n, m)
    streams = ()
    for i in tl.static_range(n):
        streams = streams + (written(xs, branch, post, R, i, m).to(dtype).to(tl.float32),)
    return streams


@triton.jit
def phi_tile(phi, block, c0, C: tl.constexpr, K: tl.constexpr, BC: tl.constexpr, KP: tl.constexpr):
    """Rows c0 to c0 + BC of one block of phi, `[BC, KP]` fp32."""
    c = c0 + tl.arange(0, BC)
    k = tl.arange(0, KP)
    at = (block * C + c)[:, None] * K + k[None, :]
    mask = (c < C)[:, None] & (k < K)[None, :]
    return tl.load(phi + at, mask=mask, other=0.0).to(tl.float32)


@triton.jit
def stream_phi(
    phi, i, c0, n: tl.constexpr, m: tl.constexpr, C: tl.constexpr, K: tl.constexpr, BC: tl.constexpr, KP: tl.constexpr
):
    """The tile of phi for stream i of m; for equal streams (m = 1) the sum over all blocks."""
    p = phi_tile(phi, i, c0, C, K, BC, KP)
    if m != n:
        for block in tl.static_range(1, n):
            p += phi_tile(phi, block, c0, C, K, BC, KP)
    return p


@triton.jit
def read_gates(stat, alpha, bias, t, live, n: tl.constexpr, m: tl.constexpr, K: tl.constexpr, LEAST: tl.constexpr):
    """Pre, m columns `[BT, 1]`; for equal streams (m = 1) their sum."""
    pre = ()
    total = tl.zeros([t.shape[0], 1], tl.float32)
    for i in tl.static_range(n):
        gate = gate_value(stat, alpha, bias, t, live, n, K, 0, i) + LEAST
        pre = pre + (gate,)
        total += gate
    if m != n:
        pre = (total,)
    return pre


@triton.jit
def gate_value(stat, alpha, bias, t, live, n: tl.constexpr, K: tl.constexpr, group: tl.constexpr, i: tl.constexpr):
    """`sigmoid(alpha z + bias)`, column i of the group pre (0) or post (1), `[BT, 1]`."""
    z = column(stat, t, live, K + 1, group * n + i)
    return tl.sigmoid(z * tl.load(alpha + group) + tl.load(bias + group * n + i))


@triton.jit
def given_columns(pre, t, live, n: tl.constexpr, m: tl.constexpr):
    """Read weights `[T, n]` as m columns; for equal streams (m = 1) their sum."""
    columns = ()
    total = tl.zeros([t.shape[0], 1], tl.float32)
    for i in tl.static_range(n):
        weight = column(pre, t, live, n, i)
        columns = columns + (weight,)
        total += weight
    if m != n:
        columns = (total,)
    return columns


@triton.jit
def matrix_tile(t, live, width: tl.constexpr, first: tl.constexpr, n: tl.constexpr, NP: tl.constexpr):
    """Offsets of `[BT, NP, NP]` matrices that start at column `first` of a `[T, width]` table, and which exist."""
    i = tl.arange(0, NP)
    inside = (i < n)[None, :, None] & (i < n)[None, None, :]
    at = (t * width + first)[:, None, None] + (i[:, None] * n + i[None, :])[None, :, :]
    return at, inside & live[:, None, None], inside


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
