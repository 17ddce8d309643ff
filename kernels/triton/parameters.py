"""Gradients of phi, alpha and bias as Triton kernels: partial sums over shares of the tokens, then their sum.

Two launches in a fixed order and no atomics, so that two runs agree to the last bit.
"""

from __future__ import annotations

import triton
import triton.language as tl

from mhc_compile.kernels.triton.logits import zero_tiles
from mhc_compile.kernels.triton.norms import column_scales, logit_scale, normed_gradient, table
from mhc_compile.kernels.triton.parts import load_streams, load_tile, respond, tile, token_block, write_weights, written


@triton.jit
def block_share(share, T, inner, SHARES: tl.constexpr, BT: tl.constexpr, LAST: tl.constexpr):
    """The first block of tokens of a share, and the one behind its last."""
    blocks = tl.cdiv(T, BT) if LAST else T // inner * tl.cdiv(inner, BT)
    size = tl.cdiv(blocks, SHARES)
    return share * size, tl.minimum(share * size + size, blocks)


@triton.jit
def add_products(sums, vs, gq, PRECISION: tl.constexpr):
    """The tuple `sums` with `vs[i]^T gq` added to each."""
    added = ()
    for i in tl.static_range(len(sums)):
        added = added + (tl.dot(tl.trans(vs[i]), gq, sums[i], input_precision=PRECISION),)
    return added


@triton.jit
def store_products(
    partial, share, sums, c0, s: tl.constexpr, C: tl.constexpr, K: tl.constexpr, BC: tl.constexpr, KP: tl.constexpr
):
    """The products of one share, into `partial [SHARES, s * C, K]`."""
    c = c0 + tl.arange(0, BC)
    k = tl.arange(0, KP)
    mask = (c < C)[:, None] & (k < K)[None, :]
    for i in tl.static_range(s):
        row = tl.cast(share * s + i, tl.int64) * C + c
        tl.store(partial + (row * K)[:, None] + k[None, :], sums[i], mask=mask)


@triton.jit
def store_logit_sums(
    logit_sums, glogits, stat, share, T, inner, C: tl.constexpr, K: tl.constexpr, KP: tl.constexpr,
    SHARES: tl.constexpr, BT: tl.constexpr, LAST: tl.constexpr, STATS: tl.constexpr
):  # fmt: skip
    """Sums of the logit gradients and of their products with z, into `logit_sums [SHARES, 2, K]`."""
    shift = tl.zeros([BT, KP], tl.float32)
    scale = tl.zeros([BT, KP], tl.float32)
    first, last = block_share(share, T, inner, SHARES, BT, LAST)
    for block in range(first, last):
        t, live, _ = token_block(block, T, inner, C, BT, LAST)
        glogit = table(glogits, t, live, K, K, KP)
        shift += glogit
        scale += glogit * respond(table(stat, t, live, K + STATS, K, KP), STATS)
    k = tl.arange(0, KP)
    tl.store(logit_sums + share * 2 * K + k, tl.sum(shift, 0), mask=k < K)
    tl.store(logit_sums + share * 2 * K + K + k, tl.sum(scale, 0), mask=k < K)


@triton.jit
def gate_products_kernel(
    X,
    alpha,
    stat,
    glogits,
    partial,
    logit_sums,
    T,
    inner,
    n: tl.constexpr,
    m: tl.constexpr,
    C: tl.constexpr,
    KP: tl.constexpr,
    BT: tl.constexpr,
    BC: tl.constexpr,
    SHARES: tl.constexpr,
    LAST: tl.constexpr,
    PRECISION: tl.constexpr,
    K: tl.constexpr,
    STATS: tl.constexpr,
):
    """`X_i^T gq` for BC channels and a share of the tokens."""
    c0 = tl.program_id(0) * BC
    share = tl.program_id(1)
    stride = tl.cast(T, tl.int64) * C
    scale = logit_scale(alpha, n, K, KP)
    sums = zero_tiles(m, BC, KP)
    first, last = block_share(share, T, inner, SHARES, BT, LAST)
    for block in range(first, last):
        t, live, start = token_block(block, T, inner, C, BT, LAST)
        at, mask = tile(start, live, c0, inner, C, BC, LAST)
        gz, _ = normed_gradient(glogits, stat, scale, t, live, n, K, KP, STATS)
        gq = gz * column_scales(stat, t, live, n, K, KP, STATS)
        sums = add_products(sums, load_streams(X, at, mask, stride, m), gq, PRECISION)
    store_products(partial, share, sums, c0, m, C, K, BC, KP)
    if tl.program_id(0) == 0:
        store_logit_sums(logit_sums, glogits, stat, share, T, inner, C, K, KP, SHARES, BT, LAST, STATS)


@triton.jit
def boundary_products_kernel(
    X,
    y,
    mix,
    alpha,
    stat,
    glogits,
    partial,
    logit_sums,
    T,
    inner,
    n: tl.constexpr,
    m: tl.constexpr,
    C: tl.constexpr,
    KP: tl.constexpr,
    BT: tl.constexpr,
    BC: tl.constexpr,
    SHARES: tl.constexpr,
    LAST: tl.constexpr,
    PRECISION: tl.constexpr,
    K: tl.constexpr,
    STATS: tl.constexpr,
):
    """`X'_i^T gq` for BC channels and a share of the tokens, with X' computed again."""
    c0 = tl.program_id(0) * BC
    share = tl.program_id(1)
    stride = tl.cast(T, tl.int64) * C
    scale = logit_scale(alpha, n, K, KP)
    sums = zero_tiles(n, BC, KP)
    first, last = block_share(share, T, inner, SHARES, BT, LAST)
    for block in range(first, last):
        t, live, start = token_block(block, T, inner, C, BT, LAST)
        at, mask = tile(start, live, c0, inner, C, BC, LAST)
        post, R = write_weights(mix, t, live, n, m)
        xs = load_streams(X, at, mask, stride, m)
        branch = load_tile(y, at, mask)
        vs = ()
        for i in tl.static_range(n):
            vs = vs + (written(xs, branch, post, R, i, m),)
        gz, _ = normed_gradient(glogits, stat, scale, t, live, n, K, KP, STATS)
        gq = gz * column_scales(stat, t, live, n, K, KP, STATS)
        sums = add_products(sums, vs, gq, PRECISION)
    store_products(partial, share, sums, c0, n, C, K, BC, KP)
    if tl.program_id(0) == 0:
        store_logit_sums(logit_sums, glogits, stat, share, T, inner, C, K, KP, SHARES, BT, LAST, STATS)


@triton.jit
def add_shares_kernel(
    partial,
    logit_sums,
    grad_phi,
    grad_alpha,
    grad_bias,
    n: tl.constexpr,
    s: tl.constexpr,
    C: tl.constexpr,
    KP: tl.constexpr,
    SHARES: tl.constexpr,
    BLOCK: tl.constexpr,
    K: tl.constexpr,
):
    """Sums over shares; with s = 1 (equal streams) every block of phi gets the same gradient."""
    at = tl.program_id(0) * BLOCK + tl.arange(0, BLOCK)
    inside = at < n * C * K
    total = tl.zeros([BLOCK], tl.float32)
    for share in range(SHARES):
        total += tl.load(partial + tl.cast(share, tl.int64) * (s * C * K) + at % (s * C * K), mask=inside, other=0.0)
    tl.store(grad_phi + at, total, mask=inside)
    if tl.program_id(0) == 0:
        k = tl.arange(0, KP)
        shift = tl.zeros([KP], tl.float32)
        scale = tl.zeros([KP], tl.float32)
        for share in range(SHARES):
            shift += tl.load(logit_sums + share * 2 * K + k, mask=k < K, other=0.0)
            scale += tl.load(logit_sums + share * 2 * K + K + k, mask=k < K, other=0.0)
        tl.store(grad_bias + k, shift, mask=k < K)
        tl.store(grad_alpha, tl.sum(tl.where(k < n, scale, 0.0)))
        tl.store(grad_alpha + 1, tl.sum(tl.where((k >= n) & (k < 2 * n), scale, 0.0)))
        if 2 * n < K:
            tl.store(grad_alpha + 2, tl.sum(tl.where(k >= 2 * n, scale, 0.0)))
