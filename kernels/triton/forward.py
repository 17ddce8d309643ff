"""The forward steps of `packed.py` as Triton kernels: one launch each, two with a gate, several to restore.

The coefficients of a token need all its channels, so a gate reads its streams twice: `*_coefficients_kernel` walks over
the channels, `read_kernel` has a program per tile. In one launch the registers of the first pass would leave the second
too few programs to wait for memory. No program owns a single output stream: it would read all input streams for it.
"""

from __future__ import annotations

import triton
import triton.language as tl

from mhc_compile.kernels.triton.matrices import store_closed
from mhc_compile.kernels.triton.norms import add_moments, no_moments, store_statistics
from mhc_compile.kernels.triton.parts import (
    gate_value,
    load_streams,
    load_tile,
    matrix_tile,
    read_gates,
    stream_phi,
    tile,
    token_block,
    write_weights,
    written,
    written_streams,
)
from mhc_compile.kernels.triton.sinkhorn import mixing_logits, sinkhorn_tile


@triton.jit
def store_coefficients(
    q,
    moments,
    alpha,
    bias,
    mix,
    stat,
    t,
    live,
    streams: tl.constexpr,
    C: tl.constexpr,
    EPS: tl.constexpr,
    ITERATIONS: tl.constexpr,
    n: tl.constexpr,
    K: tl.constexpr,
    NP: tl.constexpr,
    KP: tl.constexpr,
    MATRIX: tl.constexpr,
    MAGNITUDE: tl.constexpr,
    LEAST: tl.constexpr,
    STATS: tl.constexpr,
):
    """`mix` and `stat` from the projection `q [BT, KP]` and the moments of the streams.

    z goes through memory, because a register tile cannot be cut into columns; a barrier lies between.
    """
    store_statistics(q, moments, stat, t, live, streams, C, EPS, n, K, KP, STATS)
    tl.debug_barrier()
    for i in tl.static_range(n):
        post = MAGNITUDE * gate_value(stat, alpha, bias, t, live, n, K, STATS, 1, i) + LEAST
        tl.store(mix + (t * (n + n * n) + i)[:, None], post, mask=live[:, None])
    if MATRIX == "sinkhorn":
        logits, inside = mixing_logits(stat, alpha, bias, t, live, n, NP)
        at, mask, _ = matrix_tile(t, live, n + n * n, n, n, NP)
        tl.store(mix + at, sinkhorn_tile(logits, inside, ITERATIONS), mask=mask)
    else:
        store_closed(mix, stat, alpha, bias, t, live, n, K, MATRIX, STATS)


@triton.jit
def read_kernel(
    V,
    alpha,
    bias,
    stat,
    u,
    T,
    inner,
    n: tl.constexpr,
    m: tl.constexpr,
    C: tl.constexpr,
    BT: tl.constexpr,
    BC: tl.constexpr,
    LAST: tl.constexpr,
    K: tl.constexpr,
    LEAST: tl.constexpr,
    STATS: tl.constexpr,
):
    """`u = sum_i pre_i V_i` over m streams."""
    t, live, start = token_block(tl.program_id(0), T, inner, C, BT, LAST)
    stride = tl.cast(T, tl.int64) * C
    at, mask = tile(start, live, tl.program_id(1) * BC, inner, C, BC, LAST)
    pre = read_gates(stat, alpha, bias, t, live, n, m, K, LEAST, STATS)
    total = pre[0] * load_tile(V, at, mask)
    for i in tl.static_range(1, m):
        total += pre[i] * load_tile(V, i * stride + at, mask)
    tl.store(u + at, total.to(u.dtype.element_ty), mask=mask)


@triton.jit
def gate_coefficients_kernel(
    X,
    phi,
    alpha,
    bias,
    mix_out,
    stat,
    T,
    inner,
    n: tl.constexpr,
    m: tl.constexpr,
    C: tl.constexpr,
    NP: tl.constexpr,
    KP: tl.constexpr,
    BT: tl.constexpr,
    BC: tl.constexpr,
    LAST: tl.constexpr,
    EPS: tl.constexpr,
    ITERATIONS: tl.constexpr,
    PRECISION: tl.constexpr,
    K: tl.constexpr,
    MATRIX: tl.constexpr,
    MAGNITUDE: tl.constexpr,
    LEAST: tl.constexpr,
    STATS: tl.constexpr,
):
    """`packed.gate` but for its `u`."""
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


@triton.jit
def boundary_coefficients_kernel(
    X, y, mix, phi, alpha, bias, following, mix_out, stat, T, inner, n: tl.constexpr, m: tl.constexpr,
    C: tl.constexpr, NP: tl.constexpr, KP: tl.constexpr, BT: tl.constexpr, BC: tl.constexpr, LAST: tl.constexpr,
    EPS: tl.constexpr, ITERATIONS: tl.constexpr, PRECISION: tl.constexpr, K: tl.constexpr, MATRIX: tl.constexpr,
    MAGNITUDE: tl.constexpr, LEAST: tl.constexpr, STATS: tl.constexpr,
):  # fmt: skip
    """`packed.boundary` but for its `u`: all n streams behind the write in one program, the gate on what is stored."""
    t, live, start = token_block(tl.program_id(0), T, inner, C, BT, LAST)
    stride = tl.cast(T, tl.int64) * C
    post, R = write_weights(mix, t, live, n, m)
    q = tl.zeros([BT, KP], tl.float32)
    moments = no_moments(n, BT, BC, STATS)
    for c0 in range(0, C, BC):
        at, mask = tile(start, live, c0, inner, C, BC, LAST)
        xs = load_streams(X, at, mask, stride, m)
        branch = load_tile(y, at, mask)
        for i in tl.static_range(n):
            stored = written(xs, branch, post, R, i, m).to(following.dtype.element_ty)
            tl.store(following + i * stride + at, stored, mask=mask)
            v = stored.to(tl.float32)
            moments = add_moments(moments, i, v, c0, C, BC, STATS)
            q = tl.dot(v, stream_phi(phi, i, c0, n, n, C, K, BC, KP), q, input_precision=PRECISION)
    store_coefficients(
        q, moments, alpha, bias, mix_out, stat, t, live, n, C, EPS, ITERATIONS, n, K, NP, KP, MATRIX, MAGNITUDE,
        LEAST, STATS,
    )  # fmt: skip


@triton.jit
def write_kernel(
    X,
    y,
    mix,
    following,
    T,
    inner,
    n: tl.constexpr,
    m: tl.constexpr,
    C: tl.constexpr,
    BT: tl.constexpr,
    BC: tl.constexpr,
    LAST: tl.constexpr,
):
    """`packed.write`, one tile of all n streams per program."""
    t, live, start = token_block(tl.program_id(0), T, inner, C, BT, LAST)
    stride = tl.cast(T, tl.int64) * C
    at, mask = tile(start, live, tl.program_id(1) * BC, inner, C, BC, LAST)
    post, R = write_weights(mix, t, live, n, m)
    xs = load_streams(X, at, mask, stride, m)
    branch = load_tile(y, at, mask)
    for i in tl.static_range(n):
        stored = written(xs, branch, post, R, i, m).to(following.dtype.element_ty)
        tl.store(following + i * stride + at, stored, mask=mask)


@triton.jit
def restore_kernel(
    X,
    y_0,
    y_1,
    y_2,
    y_3,
    mix_0,
    mix_1,
    mix_2,
    mix_3,
    restored,
    T,
    inner,
    n: tl.constexpr,
    m: tl.constexpr,
    C: tl.constexpr,
    BT: tl.constexpr,
    BC: tl.constexpr,
    LAST: tl.constexpr,
    COUNT: tl.constexpr,
):
    """One pass of `packed.restore`: COUNT writes on a tile that stays in registers."""
    t, live, start = token_block(tl.program_id(0), T, inner, C, BT, LAST)
    stride = tl.cast(T, tl.int64) * C
    at, mask = tile(start, live, tl.program_id(1) * BC, inner, C, BC, LAST)
    dtype: tl.constexpr = restored.dtype.element_ty
    vs = written_streams(load_streams(X, at, mask, stride, m), load_tile(y_0, at, mask), mix_0, t, live, n, m, dtype)
    if COUNT > 1:
        vs = written_streams(vs, load_tile(y_1, at, mask), mix_1, t, live, n, n, dtype)
    if COUNT > 2:
        vs = written_streams(vs, load_tile(y_2, at, mask), mix_2, t, live, n, n, dtype)
    if COUNT > 3:
        vs = written_streams(vs, load_tile(y_3, at, mask), mix_3, t, live, n, n, dtype)
    for i in tl.static_range(n):
        tl.store(restored + i * stride + at, vs[i].to(dtype), mask=mask)
