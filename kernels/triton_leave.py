"""The last write of a segment with its readout, as a Triton kernel: the streams are never stored."""

from __future__ import annotations

import triton
import triton.language as tl

from mhc_compile.kernels.triton_parts import column, load_tile, tile, token_block


@triton.jit
def leave_weights(mix, t, live, n: tl.constexpr, m: tl.constexpr):
    """Sum of post, and the column sums of R (m = n) or their total (m = 1): m columns."""
    post = column(mix, t, live, n + n * n, 0)
    for i in tl.static_range(1, n):
        post += column(mix, t, live, n + n * n, i)
    totals = ()
    every = tl.zeros_like(post)
    for j in tl.static_range(n):
        total = column(mix, t, live, n + n * n, n + j)
        for i in tl.static_range(1, n):
            total += column(mix, t, live, n + n * n, n + i * n + j)
        totals = totals + (total,)
        every += total
    if m != n:
        totals = (every,)
    return post, totals


@triton.jit
def leave_kernel(
    X,
    y,
    mix,
    out,
    T,
    inner,
    n: tl.constexpr,
    m: tl.constexpr,
    C: tl.constexpr,
    BT: tl.constexpr,
    BC: tl.constexpr,
    LAST: tl.constexpr,
    SCALE: tl.constexpr,
):
    """`packed.leave`."""
    t, live, start = token_block(tl.program_id(0), T, inner, C, BT, LAST)
    stride = tl.cast(T, tl.int64) * C
    at, mask = tile(start, live, tl.program_id(1) * BC, inner, C, BC, LAST)
    post, totals = leave_weights(mix, t, live, n, m)
    total = post * load_tile(y, at, mask)
    for j in tl.static_range(m):
        total += totals[j] * load_tile(X, j * stride + at, mask)
    tl.store(out + at, (SCALE * total).to(out.dtype.element_ty), mask=mask)
