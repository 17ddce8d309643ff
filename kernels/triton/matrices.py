"""Matrices from logits in closed form, and their backward: the functions of `projections.py` but for Sinkhorn.

Logits, matrices and gradients are tuples of columns `[BT, 1]`, matrices row-major: they are few.
"""

from __future__ import annotations

import triton
import triton.language as tl

from mhc_compile.kernels.triton.parts import column, respond


@triton.constexpr_function
def column_of(k, i, n):
    """The column of the 1 in row i of permutation k of n, in the order of itertools."""
    left, rest = list(range(n)), k
    for row in range(i + 1):
        count = 1
        for factor in range(2, n - row):
            count *= factor
        found = left.pop(rest // count)
        rest %= count
    return found


@triton.constexpr_function
def bit_of(x, factor, factors):
    """0 where a Kronecker factor keeps, 1 where it swaps; the first factor is the highest bit."""
    return x >> (factors - 1 - factor) & 1


@triton.constexpr_function
def factors_of(n):
    """How many factors of two n has."""
    return n.bit_length() - 1


@triton.jit
def softmax_columns(logits, first: tl.constexpr, count: tl.constexpr):
    """Softmax over `count` columns from index `first`."""
    top = logits[first]
    for k in tl.static_range(1, count):
        top = tl.maximum(top, logits[first + k])
    total = tl.zeros_like(top)
    powers = ()
    for k in tl.static_range(count):
        power = tl.exp(logits[first + k] - top)
        total += power
        powers = powers + (power,)
    weights = ()
    for k in tl.static_range(count):
        weights = weights + (powers[k] / total,)
    return weights


@triton.jit
def softmax_columns_backward(grads, weights, count: tl.constexpr):
    """The gradients of the logits of `weights`."""
    dot = grads[0] * weights[0]
    for k in tl.static_range(1, count):
        dot += grads[k] * weights[k]
    back = ()
    for k in tl.static_range(count):
        back = back + (weights[k] * (grads[k] - dot),)
    return back


@triton.jit
def pair_weights(logits, factors: tl.constexpr):
    """Of each Kronecker factor, what it keeps and what it swaps."""
    weights = ()
    for f in tl.static_range(factors):
        difference = logits[2 * f] - logits[2 * f + 1]
        weights = weights + (tl.sigmoid(difference), tl.sigmoid(-difference))
    return weights


@triton.jit
def pair_product(weights, like, x: tl.constexpr, without: tl.constexpr, factors: tl.constexpr):
    """The product of the weights along the bits of x, but for one factor."""
    product = tl.zeros_like(like) + 1.0
    for f in tl.static_range(factors):
        if f != without:
            product *= weights[2 * f + bit_of(x, f, factors)]
    return product


@triton.jit
def closed_matrix(logits, like, n: tl.constexpr, MATRIX: tl.constexpr):
    """The n * n entries; `like` is any column."""
    entries = ()
    if MATRIX == "identity":
        for k in tl.static_range(n * n):
            entries = entries + (tl.zeros_like(like) + (1.0 if k % (n + 1) == 0 else 0.0),)
    elif MATRIX == "circulant":
        gate = tl.sigmoid(logits[0])
        shifts = softmax_columns(logits, 1, n)
        for k in tl.static_range(n * n):
            entry = gate * shifts[(k % n - k // n + n) % n]
            if k % (n + 1) == 0:
                entry += 1 - gate
            entries = entries + (entry,)
    elif MATRIX == "kronecker":
        factors: tl.constexpr = factors_of(n)
        weights = pair_weights(logits, factors)
        products = ()
        for x in tl.static_range(n):
            products = products + (pair_product(weights, like, x, -1, factors),)
        for k in tl.static_range(n * n):
            entries = entries + (products[(k // n) ^ (k % n)],)
    elif MATRIX == "unconstrained":
        entries = logits
    else:
        tl.static_assert(MATRIX == "permutations")
        weights = softmax_columns(logits, 0, len(logits))
        for k in tl.static_range(n * n):
            entry = tl.zeros_like(like)
            for p in tl.static_range(len(logits)):
                if column_of(p, k // n, n) == k % n:
                    entry += weights[p]
            entries = entries + (entry,)
    return entries


@triton.jit
def closed_matrix_backward(grads, logits, like, n: tl.constexpr, MATRIX: tl.constexpr):
    """The gradients of the logits from those of the n * n entries."""
    back = ()
    if MATRIX == "circulant":
        gate = tl.sigmoid(logits[0])
        shifts = softmax_columns(logits, 1, n)
        scaled = ()
        opened = tl.zeros_like(like)
        for k in tl.static_range(n):
            along = grads[k]
            for i in tl.static_range(1, n):
                along += grads[i * n + (i + k) % n]
            if k == 0:
                opened -= along
            opened += shifts[k] * along
            scaled = scaled + (gate * along,)
        back = (gate * (1 - gate) * opened,) + softmax_columns_backward(scaled, shifts, n)
    elif MATRIX == "kronecker":
        factors: tl.constexpr = factors_of(n)
        weights = pair_weights(logits, factors)
        for f in tl.static_range(factors):
            difference = tl.zeros_like(like)
            for x in tl.static_range(n):
                along = grads[x]
                for i in tl.static_range(1, n):
                    along += grads[i * n + (i ^ x)]
                along *= pair_product(weights, like, x, f, factors)
                if bit_of(x, f, factors) == 0:
                    difference += along
                else:
                    difference -= along
            slope = weights[2 * f] * weights[2 * f + 1] * difference
            back = back + (slope, -slope)
    elif MATRIX == "permutations":
        weights = softmax_columns(logits, 0, len(logits))
        alongs = ()
        for p in tl.static_range(len(logits)):
            along = tl.zeros_like(like)
            for i in tl.static_range(n):
                along += grads[i * n + column_of(p, i, n)]
            alongs = alongs + (along,)
        back = softmax_columns_backward(alongs, weights, len(logits))
    elif MATRIX == "unconstrained":
        back = grads
    return back


@triton.jit
def matrix_logits(stat, alpha, bias, t, live, n: tl.constexpr, K: tl.constexpr, STATS: tl.constexpr):
    """The K - 2n logits of the matrix."""
    logits = ()
    for k in tl.static_range(2 * n, K):
        scaled = respond(column(stat, t, live, K + STATS, k), STATS) * tl.load(alpha + 2)
        logits = logits + (scaled + tl.load(bias + k),)
    return logits


@triton.jit
def store_closed(
    mix, stat, alpha, bias, t, live, n: tl.constexpr, K: tl.constexpr, MATRIX: tl.constexpr, STATS: tl.constexpr
):
    """R into `mix`."""
    logits = matrix_logits(stat, alpha, bias, t, live, n, K, STATS)
    like = column(stat, t, live, K + STATS, K)
    entries = closed_matrix(logits, like, n, MATRIX)
    for k in tl.static_range(n * n):
        tl.store(mix + (t * (n + n * n) + n + k)[:, None], entries[k], mask=live[:, None])


@triton.jit
def store_closed_backward(
    glogits, gmix, stat, alpha, bias, t, live, n: tl.constexpr, K: tl.constexpr, MATRIX: tl.constexpr,
    STATS: tl.constexpr,
):  # fmt: skip
    """The gradients of the matrix's logits into `glogits`, from those of R in `gmix`."""
    grads = ()
    for k in tl.static_range(n * n):
        grads = grads + (column(gmix, t, live, n + n * n, n + k),)
    logits = matrix_logits(stat, alpha, bias, t, live, n, K, STATS)
    back = closed_matrix_backward(grads, logits, column(stat, t, live, K + STATS, K), n, MATRIX)
    for k in tl.static_range(len(back)):
        tl.store(glogits + (t * K + 2 * n + k)[:, None], back[k], mask=live[:, None])
