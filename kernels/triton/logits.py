"""The first launch of a backward behind a gate, as Triton kernels: the gradients of the logits, `glogits [T, K]`.

A token's logits need `<gu, X'_i>` over all its channels before any gradient of a stream is known. These kernels hold
few registers, and so run near the speed of memory.
"""

from __future__ import annotations

import triton
import triton.language as tl

from mhc_compile.kernels.triton.matrices import store_closed_backward
from mhc_compile.kernels.triton.parts import (
    column,
    gate_value,
    load_streams,
    load_tile,
    matrix_tile,
    tile,
    token_block,
    write_weights,
    written,
)
from mhc_compile.kernels.triton.sinkhorn import mixing_logits, sinkhorn_tile_backward


@triton.jit
def zero_tiles(count: tl.constexpr, rows: tl.constexpr, columns: tl.constexpr):
    """A tuple of zero tiles."""
    tiles = ()
    for _ in tl.static_range(count):
        tiles = tiles + (tl.zeros([rows, columns], tl.float32),)
    return tiles


@triton.jit
def partial_dot(a, b, VEC: tl.constexpr):
    """`a * b` summed over each VEC neighbouring channels, which one thread holds: `[BT, BC / VEC]`."""
    return tl.sum(tl.reshape(a * b, [a.shape[0], a.shape[1] // VEC, VEC]), 2)


@triton.jit
def add_dots(dots, first: tl.constexpr, a, bs, count: tl.constexpr, VEC: tl.constexpr):
    """The tuple `dots` with `<a, bs[j]>` added to entry `first + j`."""
    added = ()
    for k in tl.static_range(len(dots)):
        if k >= first and k < first + count:
            added = added + (dots[k] + partial_dot(a, bs[k - first], VEC),)
        else:
            added = added + (dots[k],)
    return added


@triton.jit
def store_logit_gradients(
    gpre,
    gmix,
    alpha,
    bias,
    stat,
    glogits,
    t,
    live,
    n: tl.constexpr,
    K: tl.constexpr,
    NP: tl.constexpr,
    ITERATIONS: tl.constexpr,
    MATRIX: tl.constexpr,
    MAGNITUDE: tl.constexpr,
    STATS: tl.constexpr,
):
    """`glogits [T, K]` from the gradients of pre (n columns) and of `mix`."""
    for i in tl.static_range(n):
        gpost = column(gmix, t, live, n + n * n, i)
        slope = 1.0
        half_slope = 1.0
        if STATS == 1:
            pre = gate_value(stat, alpha, bias, t, live, n, K, STATS, 0, i)
            half = gate_value(stat, alpha, bias, t, live, n, K, STATS, 1, i)
            slope = pre * (1 - pre)
            half_slope = MAGNITUDE * half * (1 - half)
        tl.store(glogits + (t * K + i)[:, None], gpre[i] * slope, mask=live[:, None])
        tl.store(glogits + (t * K + n + i)[:, None], gpost * half_slope, mask=live[:, None])
    if MATRIX == "sinkhorn":
        at, mask, _ = matrix_tile(t, live, n + n * n, n, n, NP)
        gR = tl.load(gmix + at, mask=mask, other=0.0)
        logits, inside = mixing_logits(stat, alpha, bias, t, live, n, NP)
        at, mask, _ = matrix_tile(t, live, K, 2 * n, n, NP)
        tl.store(glogits + at, sinkhorn_tile_backward(gR, logits, inside, ITERATIONS), mask=mask)
    else:
        store_closed_backward(glogits, gmix, stat, alpha, bias, t, live, n, K, MATRIX, STATS)


@triton.jit
def read_gate_gradients(dots, post, R, n: tl.constexpr, m: tl.constexpr):
    """`<gu, X'_i>` (n columns) from `<gu, X_j>` (m of them) and `<gu, y>`: a write is linear in both."""
    last = tl.sum(dots[m], 1, keep_dims=True)
    streams = ()
    for j in tl.static_range(m):
        streams = streams + (tl.sum(dots[j], 1, keep_dims=True),)
    gpre = ()
    for i in tl.static_range(n):
        gpre = gpre + (written(streams, last, post, R, i, m),)
    return gpre


@triton.jit
def gate_logits_kernel(
    gu,
    gmix,
    X,
    alpha,
    bias,
    stat,
    glogits,
    T,
    inner,
    n: tl.constexpr,
    m: tl.constexpr,
    C: tl.constexpr,
    NP: tl.constexpr,
    BT: tl.constexpr,
    BC: tl.constexpr,
    VEC: tl.constexpr,
    LAST: tl.constexpr,
    ITERATIONS: tl.constexpr,
    K: tl.constexpr,
    MATRIX: tl.constexpr,
    MAGNITUDE: tl.constexpr,
    STATS: tl.constexpr,
):
    """The gradients of a gate's logits."""
    t, live, start = token_block(tl.program_id(0), T, inner, C, BT, LAST)
    stride = tl.cast(T, tl.int64) * C
    dots = zero_tiles(m, BT, BC // VEC)
    for c0 in range(0, C, BC):
        at, mask = tile(start, live, c0, inner, C, BC, LAST)
        dots = add_dots(dots, 0, load_tile(gu, at, mask), load_streams(X, at, mask, stride, m), m, VEC)
    gpre = ()
    for i in tl.static_range(n):
        gpre = gpre + (tl.sum(dots[i % m], 1, keep_dims=True),)
    store_logit_gradients(
        gpre, gmix, alpha, bias, stat, glogits, t, live, n, K, NP, ITERATIONS, MATRIX, MAGNITUDE, STATS
    )


@triton.jit
def boundary_logits_kernel(
    gu,
    gmix,
    X,
    y,
    mix,
    alpha,
    bias,
    stat,
    glogits,
    T,
    inner,
    n: tl.constexpr,
    m: tl.constexpr,
    C: tl.constexpr,
    NP: tl.constexpr,
    BT: tl.constexpr,
    BC: tl.constexpr,
    VEC: tl.constexpr,
    LAST: tl.constexpr,
    ITERATIONS: tl.constexpr,
    K: tl.constexpr,
    MATRIX: tl.constexpr,
    MAGNITUDE: tl.constexpr,
    STATS: tl.constexpr,
):
    """The gradients of the logits of a gate behind a write."""
    t, live, start = token_block(tl.program_id(0), T, inner, C, BT, LAST)
    stride = tl.cast(T, tl.int64) * C
    dots = zero_tiles(m + 1, BT, BC // VEC)
    for c0 in range(0, C, BC):
        at, mask = tile(start, live, c0, inner, C, BC, LAST)
        read = load_tile(gu, at, mask)
        dots = add_dots(dots, 0, read, load_streams(X, at, mask, stride, m), m, VEC)
        dots = add_dots(dots, m, read, (load_tile(y, at, mask),), 1, VEC)
    post, R = write_weights(mix, t, live, n, m)
    gpre = read_gate_gradients(dots, post, R, n, m)
    store_logit_gradients(
        gpre, gmix, alpha, bias, stat, glogits, t, live, n, K, NP, ITERATIONS, MATRIX, MAGNITUDE, STATS
    )
