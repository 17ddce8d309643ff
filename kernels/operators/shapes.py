"""What a compiler is told of the operators in `ops.py`: the results without values, operands checked."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import torch
from torch import Tensor

from mhc_compile.kernels.formulas.lookup import sizes_of
from mhc_compile.kernels.formulas.packed import SINGLE_PASS
from mhc_compile.kernels.formulas.reference import coefficient_dtype
from mhc_compile.kernels.formulas.steps import tensors_of
from mhc_compile.kernels.late import tell_inductor
from mhc_compile.kernels.operators import checks


def _table(X: Tensor, axis: int, columns: int) -> Tensor:
    tokens = X[0].numel() // X.shape[axis + 1]  # a symbolic size while a compiler traces
    return X.new_empty((tokens, columns), dtype=coefficient_dtype(X.dtype))


def gate(
    X: Tensor, phi: Tensor, alpha: Tensor, bias: Tensor, n: int, axis: int, connection: str = "mhc"
) -> tuple[Tensor, Tensor, Tensor]:
    """Of `(u, mix, stat)`."""
    tell_inductor()
    checks.check_gate(X, phi, alpha, bias, n, axis, connection)
    stat = _table(X, axis, sizes_of(connection, n)[2])
    return X.new_empty(X.shape[1:]), _table(X, axis, n * n + n), stat


def write(X: Tensor, y: Tensor, mix: Tensor, n: int, axis: int) -> Tensor:
    """Of the next streams."""
    tell_inductor()
    checks.check_write(X, y, mix, n, axis)
    return X.new_empty((n, *y.shape), dtype=torch.promote_types(X.dtype, y.dtype))


def boundary(
    X: Tensor, y: Tensor, mix: Tensor, phi: Tensor, alpha: Tensor, bias: Tensor, n: int, axis: int,
    connection: str = "mhc",
) -> tuple[Tensor, Tensor, Tensor, Tensor]:  # fmt: skip
    """Of the next streams, and of the gate on them."""
    following = write(X, y, mix, n, axis)
    return following, *gate(following, phi, alpha, bias, n, axis, connection)


def leave(X: Tensor, y: Tensor, mix: Tensor, n: int, axis: int, scale: float) -> Tensor:
    """Of the readout."""
    tell_inductor()
    checks.check_leave(X, y, mix, n, axis, scale)
    return y.new_empty(y.shape, dtype=torch.promote_types(X.dtype, y.dtype))


def single_gate(
    X: Tensor, phi: Tensor, alpha: Tensor, bias: Tensor, n: int, axis: int, connection: str = SINGLE_PASS
) -> tuple[Tensor, Tensor, Tensor]:
    """Of `(pre, mix, stat)`."""
    return _table(X, axis, n), *gate(X, phi, alpha, bias, n, axis, connection)[1:]


def single_boundary(
    X: Tensor, y: Tensor, mix: Tensor, pre: Tensor, phi: Tensor, alpha: Tensor, bias: Tensor, n: int, axis: int,
    connection: str = SINGLE_PASS,
) -> tuple[Tensor, Tensor, Tensor, Tensor, Tensor]:  # fmt: skip
    """Of the next streams, what is read from them, and of the gate on them."""
    checks.check_single_boundary(X, y, mix, pre, phi, alpha, bias, n, axis, connection)
    following = write(X, y, mix, n, axis)
    return (
        following,
        y.new_empty(y.shape, dtype=following.dtype),
        *single_gate(following, phi, alpha, bias, n, axis, connection),
    )


def backward_of(step: str, inputs: tuple[str, ...]) -> Callable[..., Any]:
    """Of the gradients of the tensors `inputs` of a step: each has the shape of what it belongs to."""
    check = getattr(checks, f"check_{step}_backward")
    names = tensors_of(f"{step}_backward")

    def shapes(*args: Any) -> tuple[Tensor, ...]:
        tell_inductor()
        check(*args)
        given = dict(zip(names, args, strict=False))
        return tuple(given[name].new_empty(given[name].shape) for name in inputs)

    return shapes
