"""The seam to the graph rewrite: what it puts into a graph, as plain functions of tensors and constants.

Shapes: `x` is any tensor of rank >= 2 with its channels at index `axis`; the streams `X` are `[n, *x.shape]`.
Coefficients are fp32 (fp64 for fp64 streams) also under autocast: pre and post `[n, *token dims]`,
R `[n, n, *token dims]`, where the token dims are those of `x` with size 1 at `axis`, or all of size 1 for constants.
The `entry_` forms stand for n streams that are all equal to `x` and read only `x`.
The formulas are in `reference.py`.
"""

from __future__ import annotations

from collections.abc import Sequence
from contextlib import AbstractContextManager, nullcontext

import torch
from torch import Tensor

from mhc_compile.errors import InvalidOptionError
from mhc_compile.kernels import reference
from mhc_compile.kernels.connections import find
from mhc_compile.kernels.reference import Coefficients


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
    with _full_precision(X):
        return find(connection, n).coefficients(X, params, n=n, axis=axis)


def entry_coefficients(x: Tensor, params: Sequence[Tensor], *, connection: str, n: int, axis: int) -> Coefficients:
    """`coefficients(expand(x, n=n), ...)` to rounding, from `x` alone."""
    axis %= x.ndim
    with _full_precision(x):
        return find(connection, n).coefficients(x.unsqueeze(0), params, n=n, axis=axis)


def read(X: Tensor, pre: Tensor) -> Tensor:
    """The input of the branch: `sum_i pre_i X_i` in the dtype of X."""
    return reference.read(X, pre)


def entry_read(x: Tensor, pre: Tensor) -> Tensor:
    """`read(expand(x, n=n), pre)` to rounding: `(sum_i pre_i) x`."""
    return reference.read(x.unsqueeze(0), pre.sum(0, keepdim=True))


def write(X: Tensor, y: Tensor, post: Tensor, R: Tensor) -> Tensor:
    """The next streams: `sum_j R_ij X_j + post_i y`, in the dtype that `X + y` has."""
    return reference.write(X, y, post, R)


def entry_write(x: Tensor, y: Tensor, post: Tensor, R: Tensor) -> Tensor:
    """`write(expand(x, n=n), y, post, R)` to rounding: `(sum_j R_ij) x + post_i y`."""
    return reference.write(x.unsqueeze(0), y, post, R.sum(1, keepdim=True))


def reduce(X: Tensor, params: Sequence[Tensor] = (), *, how: str, axis: int) -> Tensor:
    """One tensor from the streams, in the dtype of X.

    Args:
        X: streams `[n, *x.shape]`.
        params: the parameters of the readout, in the order of `connections.readout_shapes`.
        how: `mean`, `sum`, or `learned` (`sum_i sigmoid(alpha z_i + bias_i) X_i`; with one stream, that stream).
        axis: index of the channels in `x`; negative counts from its end.

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
    with _full_precision(X):
        weights = reference.learned_weights(X, params, axis=axis)
    return read(X, weights)


def _full_precision(tensor: Tensor) -> AbstractContextManager[object]:
    """Switches autocast off where the device of `tensor` has it, so that coefficients keep their dtype."""
    device = tensor.device.type
    if not torch.amp.is_autocast_available(device):
        return nullcontext()
    return torch.autocast(device_type=device, enabled=False)
