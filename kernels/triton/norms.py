"""What a token keeps of its norms, and what the gradient of its streams takes from them: see `formulas/norms.py`.

STATS is how many numbers that is: 1, the rms of all streams together, or 2n, scale and mean of each. Moments are
tuples: one tile of squares, or, stream by stream, sums of squared distances from the mean and then means `[BT]`, which
tiles are merged into as Chan, Golub and LeVeque do (1979): a mean far from zero would cancel in a sum of squares.
"""

from __future__ import annotations

import triton
import triton.language as tl

from mhc_compile.kernels.triton.parts import column, respond


@triton.jit
def logit_scale(alpha, n: tl.constexpr, K: tl.constexpr, KP: tl.constexpr):
    """Alpha, repeated over the columns it scales: `[KP]`; one that takes no logits has two entries."""
    k = tl.arange(0, KP)
    gates = tl.where(k < n, tl.load(alpha), tl.load(alpha + 1))
    if 2 * n < K:
        gates = tl.where(k < 2 * n, gates, tl.load(alpha + 2))
    return gates


@triton.jit
def table(pointer, t, live, width: tl.constexpr, K: tl.constexpr, KP: tl.constexpr):
    """The first K columns of a `[T, width]` table, `[BT, KP]`."""
    k = tl.arange(0, KP)
    return tl.load(pointer + (t * width)[:, None] + k[None, :], mask=live[:, None] & (k < K)[None, :], other=0.0)


@triton.jit
def no_moments(streams: tl.constexpr, BT: tl.constexpr, BC: tl.constexpr, STATS: tl.constexpr):
    """Zeros, to which `add_moments` adds."""
    moments = ()
    if STATS == 1:
        moments = moments + (tl.zeros([BT, BC], tl.float32),)
    else:
        for _ in tl.static_range(2 * streams):
            moments = moments + (tl.zeros([BT], tl.float32),)
    return moments


@triton.jit
def add_moments(moments, i: tl.constexpr, v, c0, C: tl.constexpr, BC: tl.constexpr, STATS: tl.constexpr):
    """The tuple with those of a tile of stream i added, whose first channel is c0; v is 0 behind the last."""
    added = ()
    if STATS == 1:
        added = added + (moments[0] + v * v,)
    else:
        streams: tl.constexpr = len(moments) // 2
        count = tl.minimum(C - c0, BC).to(tl.float32)
        mean = tl.sum(v, 1) / count
        centred = tl.where((c0 + tl.arange(0, BC) < C)[None, :], v - mean[:, None], 0.0)
        apart = mean - moments[streams + i]
        share = count / (c0 + count)
        for k in tl.static_range(2 * streams):
            if k == i:
                added = added + (moments[k] + tl.sum(centred * centred, 1) + apart * apart * (c0 * share),)
            elif k == streams + i:
                added = added + (moments[k] + apart * share,)
            else:
                added = added + (moments[k],)
    return added


@triton.jit
def store_statistics(
    q, moments, stat, t, live, streams: tl.constexpr, C: tl.constexpr, EPS: tl.constexpr, n: tl.constexpr,
    K: tl.constexpr, KP: tl.constexpr, STATS: tl.constexpr,
):  # fmt: skip
    """`stat` from the projection `q [BT, KP]` and the moments of the streams; EPS is that of the norm."""
    k = tl.arange(0, KP)
    row = t * (K + STATS)
    if STATS == 1:
        inverse = tl.rsqrt(tl.sum(moments[0], 1) / (streams * C) + EPS)
        tl.store(stat + row + K, inverse, mask=live)
        scales = inverse[:, None]
    else:
        scales = tl.zeros_like(q)
        for i in tl.static_range(n):
            inverse = tl.rsqrt(moments[i % streams] / C + EPS)
            tl.store(stat + row + K + i, inverse, mask=live)
            tl.store(stat + row + K + n + i, moments[streams + i % streams], mask=live)
            scales = tl.where((k % n == i)[None, :], inverse[:, None], scales)
    tl.store(stat + row[:, None] + k[None, :], q * scales, mask=live[:, None] & (k < K)[None, :])


@triton.jit
def column_scales(stat, t, live, n: tl.constexpr, K: tl.constexpr, KP: tl.constexpr, STATS: tl.constexpr):
    """1 / rms `[BT, 1]`, or 1 / std of the stream that a column belongs to `[BT, KP]`."""
    if STATS == 1:
        scales = column(stat, t, live, K + STATS, K)
    else:
        k = tl.arange(0, KP)
        scales = tl.zeros([t.shape[0], KP], tl.float32)
        for i in tl.static_range(n):
            scales = tl.where((k % n == i)[None, :], column(stat, t, live, K + STATS, K + i), scales)
    return scales


@triton.jit
def normed_gradient(
    glogits, stat, scale, t, live, n: tl.constexpr, K: tl.constexpr, KP: tl.constexpr, STATS: tl.constexpr
):
    """The gradient of the normed projection z, and z itself, `[BT, KP]`; `scale` is alpha by columns."""
    z = table(stat, t, live, K + STATS, K, KP)
    gz = table(glogits, t, live, K, K, KP) * scale[None, :]
    if STATS > 1:
        response = respond(z, STATS)
        gz = gz * (1 - response * response)
    return gz, z


@triton.jit
def projection_gradient(
    glogits, stat, alpha, t, live, streams: tl.constexpr, C: tl.constexpr, n: tl.constexpr, K: tl.constexpr,
    KP: tl.constexpr, STATS: tl.constexpr,
):  # fmt: skip
    """The gradient of `v @ phi`, `[BT, KP]`; and of each norm the factor of v in the gradient, and its mean."""
    gz, z = normed_gradient(glogits, stat, logit_scale(alpha, n, K, KP), t, live, n, K, KP, STATS)
    products = gz * z
    factors = ()
    if STATS == 1:
        inverse = column(stat, t, live, K + STATS, K)
        factors = factors + (inverse * inverse * tl.sum(products, 1, keep_dims=True) / (streams * C),)
    else:
        k = tl.arange(0, KP)
        for i in tl.static_range(streams):
            inverse = column(stat, t, live, K + STATS, K + i)
            own = products
            if streams > 1:
                own = tl.where((k % n == i)[None, :], products, 0.0)
            factors = factors + (inverse * inverse * tl.sum(own, 1, keep_dims=True) / C,)
        for i in tl.static_range(streams):
            factors = factors + (column(stat, t, live, K + STATS, K + n + i),)
    return gz * column_scales(stat, t, live, n, K, KP, STATS), factors


@triton.jit
def through_norm(factors, i: tl.constexpr, v):
    """What the norm of stream i takes off its gradient, from the second result of `projection_gradient`."""
    if len(factors) == 1:
        taken = factors[0] * v
    else:
        taken = factors[i] * (v - factors[len(factors) // 2 + i])
    return taken
