"""Initial values that keep the function of the model and still let every parameter learn.

Two ways to break the symmetry of the streams, in fp64; see `gate_biases`.
"""

from __future__ import annotations

import math
from dataclasses import dataclass

import torch
from torch import Tensor

WRITE_DEPTH = 0.2
READ_DEPTH = 0.5
ALPHA = 0.01
PHI_STD = 0.02


@dataclass(frozen=True)
class Start:
    """What the initial values of one site depend on; the fields are those of `initial_values`."""

    n: int
    channels: int
    position: int
    linear: bool
    init: str
    generator: torch.Generator | None


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


def gate_biases(
    n: int,
    *,
    position: int,
    linear: bool,
    code: Tensor | None = None,
    magnitude: float = 2.0,
    eps: float = 0.0,
) -> tuple[Tensor, Tensor]:
    """Biases of the gates `sigmoid + eps` of the read and `magnitude * sigmoid + eps` of the write, `[n]` each, n >= 2.

    Linear stream paths: orthogonal codes. Streams differ only along `e` (`code`, by default `write_code(n)`), which R
    maps to a multiple of itself and no read sees, so the function is kept while the gradient of R is alive.
    Nonlinear paths: streams stay equal, and unequal reads break the symmetry instead.
    A magnitude too small to write 1 starts in the middle, as releases do.
    """
    pre = read_bias(n, eps) if linear else torch.logit(unequal_weights(n, position) - eps)
    if not writes_one(magnitude, eps):
        return pre, torch.zeros(n, dtype=torch.float64)
    written = 1 + WRITE_DEPTH * (write_code(n) if code is None else code) if linear else torch.ones(n).double()
    return pre, torch.logit((written - eps) / magnitude)


def writes_one(magnitude: float, eps: float) -> bool:
    """Whether a write gate reaches all that a start asks of it, `1 + WRITE_DEPTH` at most."""
    return magnitude + eps > 1 + WRITE_DEPTH


def read_bias(n: int, eps: float = 0.0) -> Tensor:
    """Bias `[n]` of a read gate that takes the mean plus the read code, n >= 2."""
    return torch.logit((1 + READ_DEPTH * read_code(n)) / n - eps)


def mean_bias(n: int) -> Tensor:
    """Bias `[n]` of a read gate that takes the mean, n >= 2."""
    return torch.logit(torch.full((n,), 1 / n, dtype=torch.float64))


def projection_weights(shape: tuple[int, ...], *, init: str, generator: torch.Generator | None) -> Tensor:
    """Zero for `init="preserve"`, N(0, 0.02) otherwise; fp32, on the device of the generator."""
    if init == "preserve":
        return torch.zeros(shape)
    return PHI_STD * torch.randn(shape, generator=generator, device=generator.device if generator else None)


def cosines(rows: int, columns: int) -> Tensor:
    """Columns `[rows, columns]` of a cosine transform, each of length one: a map that is neither zero nor drawn."""
    at = (torch.arange(rows, dtype=torch.float64) + 0.5)[:, None] * (torch.arange(columns) + 1)
    return torch.cos(math.pi / rows * at) * math.sqrt(2 / rows)
