"""What a compiler is told of the operators in `ops.py`: the results without values, operands checked."""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor

from mhc_compile.kernels import checks
from mhc_compile.kernels.late import tell_inductor
from mhc_compile.kernels.reference import coefficient_dtype


def _tokens(X: Tensor, axis: int) -> Any:
    return X[0].numel() // X.shape[axis + 1]  # a symbolic size while a compiler traces


def _coefficients_like(X: Tensor, axis: int, columns: int) -> Tensor:
    tell_inductor()
    return X.new_empty((_tokens(X, axis), columns), dtype=coefficient_dtype(X.dtype))


def _contiguous_like(X: Tensor) -> Tensor:
    tell_inductor()
    return X.new_empty(X.shape)


def gate(X: Tensor, phi: Tensor, alpha: Tensor, bias: Tensor, n: int, axis: int) -> tuple[Tensor, Tensor, Tensor]:
    """Of `(u, mix, stat)`."""
    checks.check_gate(X, phi, alpha, bias, n, axis)
    columns = n * n + n
    return X.new_empty(X.shape[1:]), _coefficients_like(X, axis, columns), _coefficients_like(X, axis, columns + n + 1)


def write(X: Tensor, y: Tensor, mix: Tensor, n: int, axis: int) -> Tensor:
    """Of the next streams."""
    tell_inductor()
    checks.check_write(X, y, mix, n, axis)
    return X.new_empty((n, *y.shape), dtype=torch.promote_types(X.dtype, y.dtype))


def boundary(
    X: Tensor, y: Tensor, mix: Tensor, phi: Tensor, alpha: Tensor, bias: Tensor, n: int, axis: int
) -> tuple[Tensor, Tensor, Tensor, Tensor]:
    """Of the next streams, and of the gate on them."""
    following = write(X, y, mix, n, axis)
    return following, *gate(following, phi, alpha, bias, n, axis)


def leave(X: Tensor, y: Tensor, mix: Tensor, n: int, axis: int, scale: float) -> Tensor:
    """Of the readout."""
    tell_inductor()
    checks.check_leave(X, y, mix, n, axis, scale)
    return y.new_empty(y.shape, dtype=torch.promote_types(X.dtype, y.dtype))


def gate_backward(
    gu: Tensor, gmix: Tensor, X: Tensor, phi: Tensor, alpha: Tensor, bias: Tensor, stat: Tensor, n: int, axis: int
) -> tuple[Tensor, ...]:
    """Of the gradients of `X, phi, alpha, bias`."""
    checks.check_gate_backward(gu, gmix, X, phi, alpha, bias, stat, n, axis)
    return tuple(_contiguous_like(t) for t in (X, phi, alpha, bias))


def write_backward(g: Tensor, X: Tensor, y: Tensor, mix: Tensor, n: int, axis: int) -> tuple[Tensor, ...]:
    """Of the gradients of `X, y, mix`."""
    checks.check_write_backward(g, X, y, mix, n, axis)
    return tuple(_contiguous_like(t) for t in (X, y, mix))


def boundary_backward(
    g: Tensor,
    gu: Tensor,
    gmix: Tensor,
    X: Tensor,
    y: Tensor,
    mix: Tensor,
    phi: Tensor,
    alpha: Tensor,
    bias: Tensor,
    stat: Tensor,
    n: int,
    axis: int,
) -> tuple[Tensor, ...]:
    """Of the gradients of `X, y, mix, phi, alpha, bias`."""
    checks.check_boundary_backward(g, gu, gmix, X, y, mix, phi, alpha, bias, stat, n, axis)
    return tuple(_contiguous_like(t) for t in (X, y, mix, phi, alpha, bias))


def leave_backward(g: Tensor, X: Tensor, y: Tensor, mix: Tensor, n: int, axis: int, scale: float) -> tuple[Tensor, ...]:
    """Of the gradients of `X, y, mix`."""
    checks.check_leave_backward(g, X, y, mix, n, axis, scale)
    return tuple(_contiguous_like(t) for t in (X, y, mix))
