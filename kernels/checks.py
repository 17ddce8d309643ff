"""Check the operands of a fused step before any kernel sees them: a kernel would read past the end in silence."""

from __future__ import annotations

from collections.abc import Sequence

from torch import Tensor

from mhc_compile.config import MAX_STREAMS
from mhc_compile.errors import KernelInputError


def check_streams(X: Tensor, n: int, axis: int) -> None:
    """X is `[n or 1, *x.shape]`, floating point, with at least one token dim beside the channels at `axis` of x.

    Raises:
        KernelInputError: it is not.
    """
    if not 1 <= n <= MAX_STREAMS:
        raise KernelInputError(f"n={n} is out of range: write a number of streams from 1 to {MAX_STREAMS}")
    if X.ndim < 3 or not 0 <= axis < X.ndim - 1:
        raise KernelInputError(
            f"X has the shape {list(X.shape)} with its channels at index {axis} of a stream: "
            "write streams [n, ..., C] with at least one token dimension"
        )
    if X.shape[0] not in (1, n):
        raise KernelInputError(f"X holds {X.shape[0]} streams and n is {n}: write n streams, or 1 that stands for all")
    if not X.is_floating_point():
        raise KernelInputError(f"X is {X.dtype}: write floating point streams")


def check_branch(X: Tensor, y: Tensor, mix: Tensor, n: int, axis: int) -> None:
    """Y has the shape of one stream, and mix is `[T, n + n * n]`.

    Raises:
        KernelInputError: they are not, or they lie on another device.
    """
    if y.shape != X.shape[1:] or not y.is_floating_point():
        raise KernelInputError(f"the branch is {_text(y)} and a stream is {_text(X[0])}: write one of the same shape")
    tokens = X[0].numel() // max(X.shape[axis + 1], 1)
    if mix.ndim != 2 or mix.shape[0] != tokens or mix.shape[1] != n + n * n:
        raise KernelInputError(
            f"mix is {_text(mix)}: write [{tokens}, {n + n * n}], one row of post and R for each token"
        )
    _check_devices(X, {"y": y, "mix": mix})


def check_parameters(X: Tensor, params: Sequence[Tensor], n: int, axis: int) -> None:
    """Params are `phi [n * C, K]`, `alpha [3]`, `bias [K]` with K = n * n + 2n.

    Raises:
        KernelInputError: they are not, or they lie on another device.
    """
    columns = n * n + 2 * n
    expected = {"phi": (n * X.shape[axis + 1], columns), "alpha": (3,), "bias": (columns,)}
    if len(params) != len(expected):
        raise KernelInputError(f"got {len(params)} parameters: write (phi, alpha, bias)")
    named = dict(zip(expected, params, strict=True))
    for name, shape in expected.items():
        if tuple(named[name].shape) != shape or not named[name].is_floating_point():
            raise KernelInputError(f"{name} is {_text(named[name])}: write a floating point tensor {list(shape)}")
    _check_devices(X, named)


def _check_devices(X: Tensor, others: dict[str, Tensor]) -> None:
    for name, tensor in others.items():
        if tensor.device != X.device:
            raise KernelInputError(f"X lies on {X.device} and {name} on {tensor.device}: move them to one device")


def _text(tensor: Tensor) -> str:
    return f"{str(tensor.dtype).removeprefix('torch.')}{list(tensor.shape)}"
