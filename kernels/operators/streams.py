"""The seam to the graph rewrite: what it puts into a graph, as plain functions of tensors and constants.

Shapes: `x` is any tensor of rank >= 2 with its channels at index `axis`; the streams `X` are `[n, *x.shape]`.
Coefficients are fp32 (fp64 for fp64 streams) also under autocast: pre and post `[n, *token dims]`,
R `[n, n, *token dims]`, where the token dims are those of `x` with size 1 at `axis`, or all of size 1 for constants.
The `entry_` forms stand for n streams that are all equal to `x` and read only `x`.
The formulas are in `reference.py`.

The fused forms (`gate`, `write_packed`, `boundary`, `leave`) are for connections with a `Manifold`: they hold several
of these steps and keep post and R of a site packed in one tensor `mix [T, n + n * n]`; see `packed.py`. Those of
single-pass connections are in `single_pass.py`.
"""

from __future__ import annotations

from collections.abc import Sequence
from contextlib import AbstractContextManager, nullcontext

import torch
from torch import Tensor

from mhc_compile.errors import InvalidOptionError
from mhc_compile.kernels.formulas import reference
from mhc_compile.kernels.formulas.connections import find
from mhc_compile.kernels.formulas.reference import Coefficients
from mhc_compile.kernels.operators import ops, recomputed


def expand(x: Tensor, *, n: int) -> Tensor:
    """Equal streams `[n, *x.shape]`: a view of `x`, no copy."""
    return x.expand(n, *x.shape)


def coefficients(X: Tensor, params: Sequence[Tensor], *, connection: str, axis: int) -> Coefficients:
    """pre, post and R of one site.

    Args:
        X: streams `[n, *x.shape]`.
        params: the parameters of the site, in the order of `connections.parameter_shapes`.
        connection: a key of `connections.CONNECTIONS`.
        axis: index of the channels in `x`; negative counts from its end.

    Raises:
        InvalidOptionError: the connection is not known or does not take n streams.
    """
    n, axis = X.shape[0], axis % (X.ndim - 1)
    with full_precision(X):
        return find(connection, n).coefficients(X, params, n=n, axis=axis)


def entry_coefficients(x: Tensor, params: Sequence[Tensor], *, connection: str, n: int, axis: int) -> Coefficients:
    """`coefficients(expand(x, n=n), ...)` to rounding, from `x` alone."""
    axis %= x.ndim
    with full_precision(x):
        return find(connection, n).coefficients(x.unsqueeze(0), params, n=n, axis=axis)


def read(X: Tensor, pre: Tensor) -> Tensor:
    """The input of the branch: `sum_i pre_i X_i` in the dtype of X."""
    return reference.read(X, pre)


def entry_read(x: Tensor, pre: Tensor) -> Tensor:
    """`read(expand(x, n=n), pre)` to rounding: `(sum_i pre_i) x`."""
    return reference.read(x.unsqueeze(0), pre.sum(0, keepdim=True))


def equal_weights(X: Tensor) -> Tensor:
    """Read weights that take the mean over streams, every token dim of size 1."""
    return reference.mean_weights(X)


def entry_equal_weights(x: Tensor, *, n: int) -> Tensor:
    """`equal_weights(expand(x, n=n))`."""
    return reference.mean_weights(expand(x, n=n))


def write(X: Tensor, y: Tensor, post: Tensor, R: Tensor) -> Tensor:
    """The next streams: `sum_j R_ij X_j + post_i y`, in the dtype that `X + y` has."""
    return reference.write(X, y, post, R)


def entry_write(x: Tensor, y: Tensor, post: Tensor, R: Tensor) -> Tensor:
    """`write(expand(x, n=n), y, post, R)` to rounding: `(sum_j R_ij) x + post_i y`."""
    return reference.write(x.unsqueeze(0), y, post, R.sum(1, keepdim=True))


def reduce(X: Tensor, params: Sequence[Tensor] = (), *, how: str, axis: int, eps: float = 0.0) -> Tensor:
    """One tensor from the streams, in the dtype of X.

    Args:
        X: streams `[n, *x.shape]`.
        params: the parameters of the readout, in the order of `connections.readout_shapes`.
        how: `mean`, `sum`, or `learned` (`sum_i sigmoid(alpha z_i + bias_i) X_i`; with one stream, that stream).
        axis: index of the channels in `x`; negative counts from its end.
        eps: added to learned weights, as to those of a site, see `connections.readout_eps`.

    Raises:
        InvalidOptionError: `how` is not known.
    """
    if how not in ("mean", "sum", "learned"):
        raise InvalidOptionError(f"reduce={how!r} is not known: write one of mean, sum, learned")
    if how == "sum":
        return read(X, reference.sum_weights(X))
    if how == "mean" or X.shape[0] == 1:
        return read(X, reference.mean_weights(X))
    axis %= X.ndim - 1
    with full_precision(X):
        weights = reference.learned_weights(X, params, axis=axis) + eps
    return read(X, weights)


def gate(X: Tensor, params: Sequence[Tensor], *, axis: int, connection: str = "mhc") -> tuple[Tensor, Tensor]:
    """Coefficients and read in one step: `(u, mix)`. `axis` is the index of the channels in `x`, as everywhere here."""
    return ops.gate(X, params, n=X.shape[0], axis=axis % (X.ndim - 1), connection=connection)[:2]


def entry_gate(
    x: Tensor, params: Sequence[Tensor], *, n: int, axis: int, connection: str = "mhc"
) -> tuple[Tensor, Tensor]:
    """`gate(expand(x, n=n), ...)` to rounding, from `x` alone."""
    return ops.gate(x.unsqueeze(0), params, n=n, axis=axis % x.ndim, connection=connection)[:2]


def write_packed(X: Tensor, y: Tensor, mix: Tensor, *, axis: int, recompute: Sequence[Tensor] = ()) -> Tensor:
    """`write` with packed coefficients.

    With `recompute`, X is not kept for the backward, which restores it: `(start, y, mix, y, mix, ...)` are the streams
    at the start of a group of sites (or the entry `x`), then branch output and coefficients of each site since then.
    The same holds for `boundary` and `leave`.
    """
    return recomputed.write(X, y, mix, recompute, n=X.shape[0], axis=axis % y.ndim)


def entry_write_packed(x: Tensor, y: Tensor, mix: Tensor, *, n: int, axis: int) -> Tensor:
    """`write_packed(expand(x, n=n), ...)` to rounding, from `x` alone."""
    return ops.write(x.unsqueeze(0), y, mix, n=n, axis=axis % y.ndim)


def boundary(
    X: Tensor,
    y: Tensor,
    mix: Tensor,
    params: Sequence[Tensor],
    *,
    axis: int,
    connection: str = "mhc",
    recompute: Sequence[Tensor] = (),
) -> tuple[Tensor, Tensor, Tensor]:
    """`write_packed`, and the `gate` of the next site (its `params`) on the result: `(X', u', mix')`."""
    n, axis = X.shape[0], axis % y.ndim
    return recomputed.boundary(X, y, mix, params, recompute, n=n, axis=axis, connection=connection)[:3]


def entry_boundary(
    x: Tensor, y: Tensor, mix: Tensor, params: Sequence[Tensor], *, n: int, axis: int, connection: str = "mhc"
) -> tuple[Tensor, Tensor, Tensor]:
    """`boundary(expand(x, n=n), ...)` to rounding, from `x` alone."""
    return ops.boundary(x.unsqueeze(0), y, mix, params, n=n, axis=axis % y.ndim, connection=connection)[:3]


def leave(X: Tensor, y: Tensor, mix: Tensor, *, how: str, axis: int, recompute: Sequence[Tensor] = ()) -> Tensor:
    """`reduce(write_packed(...), how=how)` to rounding, for `mean` and `sum`; the new streams are never stored."""
    n = X.shape[0]
    return recomputed.leave(X, y, mix, recompute, n=n, axis=axis % y.ndim, scale=_weight(how, n))


def entry_leave(x: Tensor, y: Tensor, mix: Tensor, *, how: str, n: int, axis: int) -> Tensor:
    """`leave(expand(x, n=n), ...)` to rounding, from `x` alone."""
    return ops.leave(x.unsqueeze(0), y, mix, n=n, axis=axis % y.ndim, scale=_weight(how, n))


def _weight(how: str, n: int) -> float:
    return 1 / n if how == "mean" else 1.0


def full_precision(tensor: Tensor) -> AbstractContextManager[object]:
    """Switches autocast off where the device of `tensor` has it, so that coefficients keep their dtype."""
    device = tensor.device.type
    if not torch.amp.is_autocast_available(device):
        return nullcontext()
    return torch.autocast(device_type=device, enabled=False)
