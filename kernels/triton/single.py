"""The steps of single-pass connections as Triton kernels: each stream is read once, forward and backward.

The read weights of a boundary belong to the site that writes, so what is read is known while the streams are written.
Their gradient belongs to that site too, so the backward knows the gradients of the logits before it begins.
"""

from __future__ import annotations

import triton
import triton.language as tl

from mhc_compile.kernels.triton.backward import add_scaled, store_mix_gradient, store_streams
from mhc_compile.kernels.triton.forward import store_coefficients
from mhc_compile.kernels.triton.logits import add_dots, store_logit_gradients, zero_tiles
from mhc_compile.kernels.triton.norms import add_moments, no_moments, projection_gradient, through_norm
from mhc_compile.kernels.triton.parts import (
    gate_value,
    given_columns,
    load_streams,
    load_tile,
    stream_phi,
    tile,
    token_block,
    write_weights,
    written,
)


@triton.jit
def store_read_weights(
    pre_out, stat, alpha, bias, t, live, n: tl.constexpr, K: tl.constexpr, LEAST: tl.constexpr,
    STATS: tl.constexpr,
):  # fmt: skip
    """Pre `[T, n]`, from a `stat` that is stored."""
    for i in tl.static_range(n):
        weight = gate_value(stat, alpha, bias, t, live, n, K, STATS, 0, i) + LEAST
        tl.store(pre_out + (t * n + i)[:, None], weight, mask=live[:, None])


@triton.jit
def single_gate_kernel(
    X, phi, alpha, bias, pre_out, mix_out, stat, T, inner,
    n: tl.constexpr, m: tl.constexpr, C: tl.constexpr, NP: tl.constexpr, KP: tl.constexpr, BT: tl.constexpr,
    BC: tl.constexpr, LAST: tl.constexpr, EPS: tl.constexpr, ITERATIONS: tl.constexpr, PRECISION: tl.constexpr,
    K: tl.constexpr, MATRIX: tl.constexpr, MAGNITUDE: tl.constexpr, LEAST: tl.constexpr, STATS: tl.constexpr,
):  # fmt: skip
    """`packed.single_gate`."""
    t, live, start = token_block(tl.program_id(0), T, inner, C, BT, LAST)
    stride = tl.cast(T, tl.int64) * C
    q = tl.zeros([BT, KP], tl.float32)
    moments = no_moments(m, BT, BC, STATS)
    for c0 in range(0, C, BC):
        at, mask = tile(start, live, c0, inner, C, BC, LAST)
        for i in tl.static_range(m):
            v = load_tile(X, i * stride + at, mask)
            moments = add_moments(moments, i, v, c0, C, BC, STATS)
            q = tl.dot(v, stream_phi(phi, i, c0, n, m, C, K, BC, KP), q, input_precision=PRECISION)
    store_coefficients(
        q, moments, alpha, bias, mix_out, stat, t, live, m, C, EPS, ITERATIONS, n, K, NP, KP, MATRIX, MAGNITUDE,
        LEAST, STATS,
    )  # fmt: skip
    store_read_weights(pre_out, stat, alpha, bias, t, live, n, K, LEAST, STATS)


@triton.jit
def single_boundary_kernel(
    X, y, mix, pre, phi, alpha, bias, following, u, pre_out, mix_out, stat, T, inner,
    n: tl.constexpr, m: tl.constexpr, C: tl.constexpr, NP: tl.constexpr, KP: tl.constexpr, BT: tl.constexpr,
    BC: tl.constexpr, LAST: tl.constexpr, EPS: tl.constexpr, ITERATIONS: tl.constexpr, PRECISION: tl.constexpr,
    K: tl.constexpr, MATRIX: tl.constexpr, MAGNITUDE: tl.constexpr, LEAST: tl.constexpr, STATS: tl.constexpr,
):  # fmt: skip
    """`packed.single_boundary`, whole: streams are written, read and projected on the way."""
    t, live, start = token_block(tl.program_id(0), T, inner, C, BT, LAST)
    stride = tl.cast(T, tl.int64) * C
    post, R = write_weights(mix, t, live, n, m)
    weights = given_columns(pre, t, live, n, n)
    q = tl.zeros([BT, KP], tl.float32)
    moments = no_moments(n, BT, BC, STATS)
    for c0 in range(0, C, BC):
        at, mask = tile(start, live, c0, inner, C, BC, LAST)
        xs = load_streams(X, at, mask, stride, m)
        branch = load_tile(y, at, mask)
        total = tl.zeros([BT, BC], tl.float32)
        for i in tl.static_range(n):
            stored = written(xs, branch, post, R, i, m).to(following.dtype.element_ty)
            tl.store(following + i * stride + at, stored, mask=mask)
            v = stored.to(tl.float32)
            total += weights[i] * v
            moments = add_moments(moments, i, v, c0, C, BC, STATS)
            q = tl.dot(v, stream_phi(phi, i, c0, n, n, C, K, BC, KP), q, input_precision=PRECISION)
        tl.store(u + at, total.to(u.dtype.element_ty), mask=mask)
    store_coefficients(
        q, moments, alpha, bias, mix_out, stat, t, live, n, C, EPS, ITERATIONS, n, K, NP, KP, MATRIX, MAGNITUDE,
        LEAST, STATS,
    )  # fmt: skip
    store_read_weights(pre_out, stat, alpha, bias, t, live, n, K, LEAST, STATS)


@triton.jit
def single_gate_backward_kernel(
    gpre, gmix, X, phi, alpha, bias, stat, glogits, grad_X, T, inner,
    n: tl.constexpr, m: tl.constexpr, C: tl.constexpr, KP: tl.constexpr, BT: tl.constexpr, BC: tl.constexpr,
    LAST: tl.constexpr, PRECISION: tl.constexpr, K: tl.constexpr, NP: tl.constexpr, ITERATIONS: tl.constexpr,
    MATRIX: tl.constexpr, MAGNITUDE: tl.constexpr, STATS: tl.constexpr,
):  # fmt: skip
    """The gradients of X and of the logits in `packed.single_gate_backward`."""
    t, live, start = token_block(tl.program_id(0), T, inner, C, BT, LAST)
    stride = tl.cast(T, tl.int64) * C
    given = given_columns(gpre, t, live, n, n)
    store_logit_gradients(
        given, gmix, alpha, bias, stat, glogits, t, live, n, K, NP, ITERATIONS, MATRIX, MAGNITUDE, STATS
    )
    tl.debug_barrier()
    gq, factors = projection_gradient(glogits, stat, alpha, t, live, m, C, n, K, KP, STATS)
    for c0 in range(0, C, BC):
        at, mask = tile(start, live, c0, inner, C, BC, LAST)
        for i in tl.static_range(m):
            p = tl.trans(stream_phi(phi, i, c0, n, m, C, K, BC, KP))
            h = tl.dot(gq, p, input_precision=PRECISION) - through_norm(factors, i, load_tile(X, i * stride + at, mask))
            tl.store(grad_X + i * stride + at, h.to(grad_X.dtype.element_ty), mask=mask)


@triton.jit
def single_boundary_backward_kernel(
    g, gu, gpre, gmix, X, y, mix, pre, phi, alpha, bias, stat, glogits, grad_X, grad_y, grad_mix, grad_pre, T, inner,
    n: tl.constexpr, m: tl.constexpr, C: tl.constexpr, KP: tl.constexpr, BT: tl.constexpr, BC: tl.constexpr,
    VEC: tl.constexpr, LAST: tl.constexpr, PRECISION: tl.constexpr, K: tl.constexpr, NP: tl.constexpr,
    ITERATIONS: tl.constexpr, MATRIX: tl.constexpr, MAGNITUDE: tl.constexpr, STATS: tl.constexpr,
):  # fmt: skip
    """The gradients of streams, branch, `mix`, read weights and logits in `packed.single_boundary_backward`."""
    t, live, start = token_block(tl.program_id(0), T, inner, C, BT, LAST)
    stride = tl.cast(T, tl.int64) * C
    given = given_columns(gpre, t, live, n, n)
    store_logit_gradients(
        given, gmix, alpha, bias, stat, glogits, t, live, n, K, NP, ITERATIONS, MATRIX, MAGNITUDE, STATS
    )
    tl.debug_barrier()
    gq, factors = projection_gradient(glogits, stat, alpha, t, live, n, C, n, K, KP, STATS)
    post, R = write_weights(mix, t, live, n, m)
    weights = given_columns(pre, t, live, n, n)
    dots = zero_tiles(n + n * m, BT, BC // VEC)
    reads = zero_tiles(n, BT, BC // VEC)
    for c0 in range(0, C, BC):
        at, mask = tile(start, live, c0, inner, C, BC, LAST)
        xs = load_streams(X, at, mask, stride, m)
        branch = load_tile(y, at, mask)
        read = load_tile(gu, at, mask)
        gxs = zero_tiles(m, BT, BC)
        gy = tl.zeros([BT, BC], tl.float32)
        for i in tl.static_range(n):
            v = written(xs, branch, post, R, i, m)
            reads = add_dots(reads, i, read, (v,), 1, VEC)
            p = tl.trans(stream_phi(phi, i, c0, n, n, C, K, BC, KP))
            h = load_tile(g, i * stride + at, mask) + weights[i] * read - through_norm(factors, i, v)
            h += tl.dot(gq, p, input_precision=PRECISION)
            gy += post[i] * h
            gxs = add_scaled(gxs, R, i * m, h)
            dots = add_dots(dots, i, h, (branch,), 1, VEC)
            dots = add_dots(dots, n + i * m, h, xs, m, VEC)
        store_streams(grad_X, at, mask, stride, gxs)
        tl.store(grad_y + at, gy.to(grad_y.dtype.element_ty), mask=mask)
    store_mix_gradient(grad_mix, dots, t, live, n, m)
    for i in tl.static_range(n):
        tl.store(grad_pre + (t * n + i)[:, None], tl.sum(reads[i], 1, keep_dims=True), mask=live[:, None])
