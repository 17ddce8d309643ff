"""Check the operands of a fused step before any kernel sees them: a kernel would read past the end in silence.

One function per step, with the parameters of `packed.py`; each raises `KernelInputError`.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import Any

import torch
from torch import Tensor

from mhc_compile.errors import KernelInputError
from mhc_compile.kernels.formulas.lookup import sizes_of
from mhc_compile.kernels.formulas.packed import SINGLE_PASS
from mhc_compile.kernels.formulas.projections import MAX_STREAMS

DTYPES = (torch.float64, torch.float32, torch.bfloat16, torch.float16)


def check_gate(X: Tensor, phi: Tensor, alpha: Tensor, bias: Tensor, n: int, axis: int, connection: str = "mhc") -> None:
    """Of `packed.gate`."""
    _check_streams(X, n, axis)
    _check_parameters(X, phi, alpha, bias, n, axis, connection)


def check_write(X: Tensor, y: Tensor, mix: Tensor, n: int, axis: int) -> None:
    """Of `packed.write`."""
    _check_streams(X, n, axis)
    _check_tensor("the branch", y, X, X.shape[1:], "one of the shape of a stream")
    _check_tensor("mix", mix, X, (_tokens(X, axis), n + n * n), "one row of post and R for each token,")


def check_boundary(
    X: Tensor, y: Tensor, mix: Tensor, phi: Tensor, alpha: Tensor, bias: Tensor, n: int, axis: int,
    connection: str = "mhc",
) -> None:  # fmt: skip
    """Of `packed.boundary`."""
    check_write(X, y, mix, n, axis)
    _check_parameters(X, phi, alpha, bias, n, axis, connection)


def check_single_gate(
    X: Tensor, phi: Tensor, alpha: Tensor, bias: Tensor, n: int, axis: int, connection: str = SINGLE_PASS
) -> None:
    """Of `packed.single_gate`."""
    check_gate(X, phi, alpha, bias, n, axis, connection)


def check_single_boundary(
    X: Tensor, y: Tensor, mix: Tensor, pre: Tensor, phi: Tensor, alpha: Tensor, bias: Tensor, n: int, axis: int,
    connection: str = SINGLE_PASS,
) -> None:  # fmt: skip
    """Of `packed.single_boundary`."""
    check_boundary(X, y, mix, phi, alpha, bias, n, axis, connection)
    _check_tensor("pre", pre, X, (_tokens(X, axis), n), "one row of read weights for each token,")


def check_leave(X: Tensor, y: Tensor, mix: Tensor, n: int, axis: int, scale: float) -> None:
    """Of `packed.leave`."""
    check_write(X, y, mix, n, axis)
    if not math.isfinite(scale):
        raise KernelInputError(f"scale={scale}: write a finite number, such as 1 / n for the mean")


def check_restore(X: Tensor, start: Tensor, past: Sequence[Tensor], n: int, axis: int) -> None:
    """Of `packed.restore`, which is to make streams of the shape of X."""
    if not past or len(past) % 2:
        raise KernelInputError(f"past holds {len(past)} tensors: write (y, mix) for at least one site")
    for y, mix in zip(past[::2], past[1::2], strict=True):
        check_write(start, y, mix, n, axis)
    if X.shape[1:] != start.shape[1:] or X.device != start.device:
        raise KernelInputError(f"start is {_text(start)} and X is {_text(X)}: write earlier streams of that segment")


def check_gate_backward(
    gu: Tensor, gmix: Tensor, X: Tensor, phi: Tensor, alpha: Tensor, bias: Tensor, stat: Tensor, n: int, axis: int,
    connection: str = "mhc",
) -> None:  # fmt: skip
    """Of `packed.gate_backward`."""
    check_gate(X, phi, alpha, bias, n, axis, connection)
    _check_tensor("gu", gu, X, X.shape[1:])
    _check_gate_gradients(gmix, X, stat, n, axis, connection)


def check_write_backward(g: Tensor, X: Tensor, y: Tensor, mix: Tensor, n: int, axis: int) -> None:
    """Of `packed.write_backward`."""
    check_write(X, y, mix, n, axis)
    _check_tensor("g", g, X, (n, *y.shape))


def check_boundary_backward(
    g: Tensor, gu: Tensor, gmix: Tensor, X: Tensor, y: Tensor, mix: Tensor, phi: Tensor, alpha: Tensor, bias: Tensor,
    stat: Tensor, n: int, axis: int, connection: str = "mhc",
) -> None:  # fmt: skip
    """Of `packed.boundary_backward`."""
    check_boundary(X, y, mix, phi, alpha, bias, n, axis, connection)
    _check_tensor("g", g, X, (n, *y.shape))
    _check_tensor("gu", gu, X, X.shape[1:])
    _check_gate_gradients(gmix, X, stat, n, axis, connection)


def check_single_gate_backward(
    gpre: Tensor, gmix: Tensor, X: Tensor, phi: Tensor, alpha: Tensor, bias: Tensor, stat: Tensor, n: int, axis: int,
    connection: str = SINGLE_PASS,
) -> None:  # fmt: skip
    """Of `packed.single_gate_backward`."""
    check_gate(X, phi, alpha, bias, n, axis, connection)
    _check_tensor("gpre", gpre, X, (_tokens(X, axis), n))
    _check_gate_gradients(gmix, X, stat, n, axis, connection)


def check_single_boundary_backward(
    g: Tensor, gu: Tensor, gpre: Tensor, gmix: Tensor, X: Tensor, y: Tensor, mix: Tensor, pre: Tensor, phi: Tensor,
    alpha: Tensor, bias: Tensor, stat: Tensor, n: int, axis: int, connection: str = SINGLE_PASS,
) -> None:  # fmt: skip
    """Of `packed.single_boundary_backward`."""
    check_single_boundary(X, y, mix, pre, phi, alpha, bias, n, axis, connection)
    _check_tensor("gpre", gpre, X, (_tokens(X, axis), n))
    check_boundary_backward(g, gu, gmix, X, y, mix, phi, alpha, bias, stat, n, axis, connection)


def check_leave_backward(g: Tensor, X: Tensor, y: Tensor, mix: Tensor, n: int, axis: int, scale: float) -> None:
    """Of `packed.leave_backward`."""
    check_leave(X, y, mix, n, axis, scale)
    _check_tensor("g", g, X, y.shape)


def _check_streams(X: Tensor, n: int, axis: int) -> None:
    """X is `[n or 1, *x.shape]` with at least one token dim beside the channels at `axis` of x."""
    if not 1 <= n <= MAX_STREAMS:
        raise KernelInputError(f"n={n} is out of range: write a number of streams from 1 to {MAX_STREAMS}")
    if X.ndim < 3 or not 0 <= axis < X.ndim - 1:
        raise KernelInputError(
            f"X has the shape {list(X.shape)} with its channels at index {axis} of a stream: "
            "write streams [n, ..., C] with at least one token dimension"
        )
    if X.shape[0] not in (1, n):
        raise KernelInputError(f"X holds {X.shape[0]} streams and n is {n}: write n streams, or 1 that stands for all")
    if X.shape[axis + 1] == 0:
        raise KernelInputError(f"X is {_text(X)}, without channels: write at least one")
    if X.dtype not in DTYPES or X.layout != torch.strided:
        raise KernelInputError(f"X is {X.dtype}, {X.layout}: write dense floating point streams of 16, 32 or 64 bits")


def _check_parameters(X: Tensor, phi: Tensor, alpha: Tensor, bias: Tensor, n: int, axis: int, connection: str) -> None:
    columns, scales, _ = sizes_of(connection, n)
    _check_tensor("phi", phi, X, (n * X.shape[axis + 1], columns))
    _check_tensor("alpha", alpha, X, (scales,))
    _check_tensor("bias", bias, X, (columns,))


def _check_gate_gradients(gmix: Tensor, X: Tensor, stat: Tensor, n: int, axis: int, connection: str) -> None:
    tokens = _tokens(X, axis)
    _check_tensor("gmix", gmix, X, (tokens, n + n * n))
    _check_tensor("stat", stat, X, (tokens, sizes_of(connection, n)[2]))


def _check_tensor(name: str, tensor: Tensor, X: Tensor, shape: Any, what: str = "a floating point tensor") -> None:
    if tuple(tensor.shape) != tuple(shape) or tensor.dtype not in DTYPES or tensor.layout != torch.strided:
        raise KernelInputError(f"{name} is {_text(tensor)} and X is {_text(X)}: write {what} {list(shape)}")
    if tensor.device != X.device:
        raise KernelInputError(f"X lies on {X.device} and {name} on {tensor.device}: move them to one device")


def _tokens(X: Tensor, axis: int) -> int:
    return X[0].numel() // X.shape[axis + 1]


def _text(tensor: Tensor) -> str:
    return f"{str(tensor.dtype).removeprefix('torch.')}{list(tensor.shape)}"
