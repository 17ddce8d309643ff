"""What the Triton kernels of the fused steps share: tiles and coefficients.

A program takes one tile of BT tokens and BC channels, or walks over the channels, or over the tokens. Tuples hold one
tile or one column of coefficients per stream, unrolled at compile time. `stat`, `mix` and matrices are
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
def read_gates(
    stat, alpha, bias, t, live, n: tl.constexpr, m: tl.constexpr, K: tl.constexpr, LEAST: tl.constexpr,
    STATS: tl.constexpr,
):  # fmt: skip
    """Pre, m columns `[BT, 1]`; for equal streams (m = 1) their sum."""
    pre = ()
    total = tl.zeros([t.shape[0], 1], tl.float32)
    for i in tl.static_range(n):
        gate = gate_value(stat, alpha, bias, t, live, n, K, STATS, 0, i) + LEAST
        pre = pre + (gate,)
        total += gate
    if m != n:
        pre = (total,)
    return pre


@triton.jit
def gate_value(
    stat, alpha, bias, t, live, n: tl.constexpr, K: tl.constexpr, STATS: tl.constexpr, group: tl.constexpr,
    i: tl.constexpr,
):  # fmt: skip
    """`sigmoid(alpha z + bias)`, or `alpha tanh(z) + bias`: column i of pre (0) or post (1), `[BT, 1]`."""
    z = column(stat, t, live, K + STATS, group * n + i)
    logit = respond(z, STATS) * tl.load(alpha + group) + tl.load(bias + group * n + i)
    if STATS == 1:
        logit = tl.sigmoid(logit)
    return logit


@triton.jit
def respond(z, STATS: tl.constexpr):
    """What alpha scales: the normed projection, or its tanh where each stream has a norm of its own."""
    if STATS > 1:
        z = 2 * tl.sigmoid(2 * z) - 1
    return z


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
