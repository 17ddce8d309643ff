"""Initial values that keep the function of the model and still let every parameter learn.

Two ways to break the symmetry of the streams, in fp64; see `gate_biases`.
"""

from __future__ import annotations

import torch
from torch import Tensor

WRITE_DEPTH = 0.2
READ_DEPTH = 0.5
ALPHA = 0.01
PHI_STD = 0.02


def _alternating(length: int) -> list[float]:
    """+1, -1, +1, ... of sum zero: an odd length ends in 0."""
    return [1.0, -1.0] * (length // 2) + [0.0] * (length % 2)


def write_code(n: int) -> Tensor:
    """The zero-mean vector `e [n]` along which streams differ: `post = 1 + 0.2 e`."""
    if n <= 3:
        return torch.tensor(_alternating(n), dtype=torch.float64)
    return torch.tensor(_alternating(n // 2) + [0.0] * (n - n // 2), dtype=torch.float64)


def halves_code(n: int) -> Tensor:
    """+1 for the first half of the streams, -1 for the second: what a Kronecker product of 2 x 2 matrices keeps."""
    return torch.tensor([1.0] * (n // 2) + [-1.0] * (n // 2), dtype=torch.float64)


def read_code(n: int) -> Tensor:
    """The zero-mean vector `g [n]` of the read, orthogonal to `write_code(n)`; zero for n <= 2, where none is left."""
    if n <= 2:
        return torch.zeros(n, dtype=torch.float64)
    if n == 3:
        return torch.tensor([0.5, 0.5, -1.0], dtype=torch.float64)
    return torch.tensor([0.0] * (n // 2) + _alternating(n - n // 2), dtype=torch.float64)


def unequal_weights(n: int, position: int) -> Tensor:
    """Read weights `[n]` of sum 1, spread evenly from 0.5/n to 1.5/n and rotated by `position`."""
    spread = torch.linspace(-1, 1, n, dtype=torch.float64) if n > 1 else torch.zeros(1, dtype=torch.float64)
    return ((1 + READ_DEPTH * spread) / n).roll(position)


def gate_biases(n: int, *, position: int, linear: bool, code: Tensor | None = None) -> tuple[Tensor, Tensor]:
    """Biases of the read and of the write gate, `[n]` each, n >= 2.

    Linear stream paths: orthogonal codes. Streams differ only along `e` (`code`, by default `write_code(n)`), which R
    maps to a multiple of itself and no read sees, so the function is kept while the gradient of R is alive.
    Nonlinear paths: streams stay equal, and unequal reads break the symmetry instead.
    """
    if linear:
        return read_bias(n), torch.logit((1 + WRITE_DEPTH * (write_code(n) if code is None else code)) / 2)
    return torch.logit(unequal_weights(n, position)), torch.zeros(n, dtype=torch.float64)


def read_bias(n: int) -> Tensor:
    """Bias `[n]` of a read gate that takes the mean plus the read code, n >= 2."""
    return torch.logit((1 + READ_DEPTH * read_code(n)) / n)


def mean_bias(n: int) -> Tensor:
    """Bias `[n]` of a read gate that takes the mean, n >= 2."""
    return torch.logit(torch.full((n,), 1 / n, dtype=torch.float64))


def projection_weights(shape: tuple[int, ...], *, init: str, generator: torch.Generator | None) -> Tensor:
    """Zero for `init="preserve"`, N(0, 0.02) for `"random"`; fp32, on the device of the generator."""
    if init == "preserve":
        return torch.zeros(shape)
    return PHI_STD * torch.randn(shape, generator=generator, device=generator.device if generator else None)
