"""The fused steps of single-pass connections, as the graph rewrite puts them into a graph; see `streams.py`.

A site is read with the read weights of the site before, so these are handed on beside `mix`: packed `pre [T, n]`. All
that a boundary needs is known before it starts, and its streams are read once.
"""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import Tensor

from mhc_compile.kernels.formulas.packed import SINGLE_PASS
from mhc_compile.kernels.formulas.reference import coefficient_dtype
from mhc_compile.kernels.operators import ops, recomputed


def single_gate(
    X: Tensor, params: Sequence[Tensor], *, axis: int, connection: str = SINGLE_PASS
) -> tuple[Tensor, Tensor]:
    """Packed coefficients without a read: `(pre [T, n], mix)`."""
    return ops.single_gate(X, params, n=X.shape[0], axis=axis % (X.ndim - 1), connection=connection)[:2]


def entry_single_gate(
    x: Tensor, params: Sequence[Tensor], *, n: int, axis: int, connection: str = SINGLE_PASS
) -> tuple[Tensor, Tensor]:
    """`single_gate(expand(x, n=n), ...)` to rounding, from `x` alone."""
    return ops.single_gate(x.unsqueeze(0), params, n=n, axis=axis % x.ndim, connection=connection)[:2]


def single_boundary(
    X: Tensor,
    y: Tensor,
    mix: Tensor,
    pre: Tensor,
    params: Sequence[Tensor],
    *,
    axis: int,
    connection: str = SINGLE_PASS,
    recompute: Sequence[Tensor] = (),
) -> tuple[Tensor, Tensor, Tensor, Tensor]:
    """`write_packed`, the read of the result with `pre`, the next `single_gate` on it: `(X', u', pre', mix')`."""
    n, axis = X.shape[0], axis % y.ndim
    return recomputed.single_boundary(X, y, mix, pre, params, recompute, n=n, axis=axis, connection=connection)[:4]


def entry_single_boundary(
    x: Tensor,
    y: Tensor,
    mix: Tensor,
    pre: Tensor,
    params: Sequence[Tensor],
    *,
    n: int,
    axis: int,
    connection: str = SINGLE_PASS,
) -> tuple[Tensor, Tensor, Tensor, Tensor]:
    """`single_boundary(expand(x, n=n), ...)` to rounding, from `x` alone."""
    X, axis = x.unsqueeze(0), axis % y.ndim
    return ops.single_boundary(X, y, mix, pre, params, n=n, axis=axis, connection=connection)[:4]


def single_leave(
    X: Tensor, y: Tensor, mix: Tensor, pre: Tensor, *, axis: int, recompute: Sequence[Tensor] = ()
) -> Tensor:
    """`read(write_packed(...), pre)` to rounding; the new streams are never stored."""
    n = X.shape[0]
    return recomputed.leave(X, y, _read_mix(mix, pre), recompute, n=n, axis=axis % y.ndim, scale=1.0)


def entry_single_leave(x: Tensor, y: Tensor, mix: Tensor, pre: Tensor, *, n: int, axis: int) -> Tensor:
    """`single_leave(expand(x, n=n), ...)` to rounding, from `x` alone."""
    return ops.leave(x.unsqueeze(0), y, _read_mix(mix, pre), n=n, axis=axis % y.ndim, scale=1.0)


def _read_mix(mix: Tensor, pre: Tensor) -> Tensor:
    """The mix whose first stream is what `pre` reads behind a write with `mix`, and whose others are zero."""
    n = pre.shape[1]
    post, R = mix[:, :n], mix[:, n:].unflatten(1, (n, n))
    read = torch.cat(((pre * post).sum(1, keepdim=True), (pre.unsqueeze(2) * R).sum(1)), 1)  # [T, 1 + n]
    zeros = torch.zeros_like(mix)
    return torch.cat((read[:, :1], zeros[:, 1:n], read[:, 1:], zeros[:, 2 * n :]), 1)


def read_weights(pre: Tensor, X: Tensor, *, axis: int) -> Tensor:
    """Packed read weights `[T, n]` as `read` takes them, `[n, *token dims]`; X are streams of these tokens."""
    return _read_weights(pre, X.shape[1:], axis)


def entry_read_weights(pre: Tensor, x: Tensor, *, axis: int) -> Tensor:
    """`read_weights(pre, expand(x, n=n), ...)`."""
    return _read_weights(pre, x.shape, axis)


def _read_weights(pre: Tensor, shape: Sequence[int], axis: int) -> Tensor:
    axis %= len(shape)
    return pre.t().reshape(pre.shape[1], *shape[:axis], 1, *shape[axis + 1 :])


def weights_like(x: Tensor, *, n: int, axis: int) -> Tensor:
    """An empty tensor like the read weights `[n, *token dims]` of streams of `x`."""
    shape = list(x.shape)
    shape[axis] = 1
    return x.new_empty((n, *shape), dtype=coefficient_dtype(x.dtype))
