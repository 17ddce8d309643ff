"""The backward steps of `packed.py` as Triton kernels: gradients of streams, branch and `mix`.

X' is computed again. Behind a gate the logits' gradients are there already (`logits.py`); those of the
parameters follow in `parameters.py`.
"""

from __future__ import annotations

import triton
import triton.language as tl

from mhc_compile.kernels.triton.leave import leave_weights
from mhc_compile.kernels.triton.logits import add_dots, zero_tiles
from mhc_compile.kernels.triton.norms import projection_gradient, through_norm
from mhc_compile.kernels.triton.parts import (
    load_streams,
    load_tile,
    read_gates,
    stream_phi,
    tile,
    token_block,
    write_weights,
    written,
)


@triton.jit
def gate_backward_kernel(
    gu,
    X,
    phi,
    alpha,
    bias,
    stat,
    glogits,
    grad_X,
    T,
    inner,
    n: tl.constexpr,
    m: tl.constexpr,
    C: tl.constexpr,
    KP: tl.constexpr,
    BT: tl.constexpr,
    BC: tl.constexpr,
    LAST: tl.constexpr,
    PRECISION: tl.constexpr,
    K: tl.constexpr,
    LEAST: tl.constexpr,
    STATS: tl.constexpr,
):
    """The gradient of X in `packed.gate_backward`."""
    t, live, start = token_block(tl.program_id(0), T, inner, C, BT, LAST)
    stride = tl.cast(T, tl.int64) * C
    gq, factors = projection_gradient(glogits, stat, alpha, t, live, m, C, n, K, KP, STATS)
    pre = read_gates(stat, alpha, bias, t, live, n, m, K, LEAST, STATS)
    for c0 in range(0, C, BC):
        at, mask = tile(start, live, c0, inner, C, BC, LAST)
        read = load_tile(gu, at, mask)
        for i in tl.static_range(m):
            p = tl.trans(stream_phi(phi, i, c0, n, m, C, K, BC, KP))
            h = pre[i] * read - through_norm(factors, i, load_tile(X, i * stride + at, mask))
            h += tl.dot(gq, p, input_precision=PRECISION)
            tl.store(grad_X + i * stride + at, h.to(grad_X.dtype.element_ty), mask=mask)


@triton.jit
def add_scaled(tiles, weights, first: tl.constexpr, h):
    """The tuple `tiles` with `weights[first + j] * h` added to each."""
    added = ()
    for j in tl.static_range(len(tiles)):
        added = added + (tiles[j] + weights[first + j] * h,)
    return added


@triton.jit
def store_streams(grad_X, at, mask, stride, tiles):
    """A tile per stream, in the dtype of the streams."""
    for j in tl.static_range(len(tiles)):
        tl.store(grad_X + j * stride + at, tiles[j].to(grad_X.dtype.element_ty), mask=mask)


@triton.jit
def store_mix_gradient(grad_mix, dots, t, live, n: tl.constexpr, m: tl.constexpr):
    """The gradient of `mix` from n dots for post and n * m for R; with equal streams (m = 1) repeated along rows."""
    for i in tl.static_range(n):
        row = (t * (n + n * n))[:, None]
        tl.store(grad_mix + row + i, tl.sum(dots[i], 1, keep_dims=True), mask=live[:, None])
        for j in tl.static_range(n):
            value = tl.sum(dots[n + i * m + j % m], 1, keep_dims=True)
            tl.store(grad_mix + row + n + i * n + j, value, mask=live[:, None])


@triton.jit
def write_backward_kernel(
    g,
    X,
    y,
    mix,
    grad_X,
    grad_y,
    grad_mix,
    T,
    inner,
    n: tl.constexpr,
    m: tl.constexpr,
    C: tl.constexpr,
    BT: tl.constexpr,
    BC: tl.constexpr,
    VEC: tl.constexpr,
    LAST: tl.constexpr,
):
    """`packed.write_backward`."""
    t, live, start = token_block(tl.program_id(0), T, inner, C, BT, LAST)
    stride = tl.cast(T, tl.int64) * C
    post, R = write_weights(mix, t, live, n, m)
    dots = zero_tiles(n + n * m, BT, BC // VEC)
    for c0 in range(0, C, BC):
        at, mask = tile(start, live, c0, inner, C, BC, LAST)
        xs = load_streams(X, at, mask, stride, m)
        branch = load_tile(y, at, mask)
        gxs = zero_tiles(m, BT, BC)
        gy = tl.zeros([BT, BC], tl.float32)
        for i in tl.static_range(n):
            h = load_tile(g, i * stride + at, mask)
            gy += post[i] * h
            gxs = add_scaled(gxs, R, i * m, h)
            dots = add_dots(dots, i, h, (branch,), 1, VEC)
            dots = add_dots(dots, n + i * m, h, xs, m, VEC)
        store_streams(grad_X, at, mask, stride, gxs)
        tl.store(grad_y + at, gy.to(grad_y.dtype.element_ty), mask=mask)
    store_mix_gradient(grad_mix, dots, t, live, n, m)


@triton.jit
def leave_backward_kernel(
    g,
    X,
    y,
    mix,
    grad_X,
    grad_y,
    grad_mix,
    T,
    inner,
    n: tl.constexpr,
    m: tl.constexpr,
    C: tl.constexpr,
    BT: tl.constexpr,
    BC: tl.constexpr,
    VEC: tl.constexpr,
    LAST: tl.constexpr,
    SCALE: tl.constexpr,
):
    """`packed.leave_backward`: every stream behind the write has the gradient `SCALE * g`."""
    t, live, start = token_block(tl.program_id(0), T, inner, C, BT, LAST)
    stride = tl.cast(T, tl.int64) * C
    post, totals = leave_weights(mix, t, live, n, m)
    dots = zero_tiles(1 + m, BT, BC // VEC)
    for c0 in range(0, C, BC):
        at, mask = tile(start, live, c0, inner, C, BC, LAST)
        h = SCALE * load_tile(g, at, mask)
        dots = add_dots(dots, 0, h, (load_tile(y, at, mask),), 1, VEC)
        dots = add_dots(dots, 1, h, load_streams(X, at, mask, stride, m), m, VEC)
        tl.store(grad_y + at, (post * h).to(grad_y.dtype.element_ty), mask=mask)
        store_streams(grad_X, at, mask, stride, add_scaled(zero_tiles(m, BT, BC), totals, 0, h))
    every = ()
    for _ in tl.static_range(n):
        every = every + (dots[0],)
    for _ in tl.static_range(n):
        for j in tl.static_range(m):
            every = every + (dots[1 + j],)
    store_mix_gradient(grad_mix, every, t, live, n, m)


@triton.jit
def boundary_backward_kernel(
    g, gu, X, y, mix, phi, alpha, bias, stat, glogits, grad_X, grad_y, grad_mix, T, inner, n: tl.constexpr,
    m: tl.constexpr, C: tl.constexpr, KP: tl.constexpr, BT: tl.constexpr, BC: tl.constexpr, VEC: tl.constexpr,
    LAST: tl.constexpr, PRECISION: tl.constexpr, K: tl.constexpr, LEAST: tl.constexpr, STATS: tl.constexpr,
):  # fmt: skip
    """The gradients of streams, branch and `mix` in `packed.boundary_backward`."""
    t, live, start = token_block(tl.program_id(0), T, inner, C, BT, LAST)
    stride = tl.cast(T, tl.int64) * C
    post, R = write_weights(mix, t, live, n, m)
    gq, factors = projection_gradient(glogits, stat, alpha, t, live, n, C, n, K, KP, STATS)
    pre = read_gates(stat, alpha, bias, t, live, n, n, K, LEAST, STATS)
    dots = zero_tiles(n + n * m, BT, BC // VEC)
    for c0 in range(0, C, BC):
        at, mask = tile(start, live, c0, inner, C, BC, LAST)
        xs = load_streams(X, at, mask, stride, m)
        branch = load_tile(y, at, mask)
        read = load_tile(gu, at, mask)
        gxs = zero_tiles(m, BT, BC)
        gy = tl.zeros([BT, BC], tl.float32)
        for i in tl.static_range(n):
            p = tl.trans(stream_phi(phi, i, c0, n, n, C, K, BC, KP))
            h = load_tile(g, i * stride + at, mask) + pre[i] * read
            h -= through_norm(factors, i, written(xs, branch, post, R, i, m))
            h += tl.dot(gq, p, input_precision=PRECISION)
            gy += post[i] * h
            gxs = add_scaled(gxs, R, i * m, h)
            dots = add_dots(dots, i, h, (branch,), 1, VEC)
            dots = add_dots(dots, n + i * m, h, xs, m, VEC)
        store_streams(grad_X, at, mask, stride, gxs)
        tl.store(grad_y + at, gy.to(grad_y.dtype.element_ty), mask=mask)
    store_mix_gradient(grad_mix, dots, t, live, n, m)
