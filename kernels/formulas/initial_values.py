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


@dataclass(frozen=True)
class Codes:
    """Two zero-mean vectors `[n]` over the streams, orthogonal to each other, of entries up to 1.

    Attributes:
        write: e, along which streams differ: `post = 1 + 0.2 e`.
        read: g, `pre = (1 + 0.5 g) / n`; zero for n = 2, where no direction is left.

    No two streams have the same pair of entries. Streams that had would get the same gradients for ever, whatever is
    trained: they would be one.
    """

    write: Tensor
    read: Tensor


def halved_codes(n: int) -> Codes:
    """For matrices `a I + b J`, which map each zero-mean vector to a multiple: each code has half of the streams."""
    write, read = torch.zeros(2, n, dtype=torch.float64)
    if n == 3:
        write[:], read[:] = torch.tensor([[1.0, -1.0, 0.0], [0.5, 0.5, -1.0]])
    elif n >= 2:
        middle = n if n == 2 else n // 2
        write[:middle] = _unequal(middle)
        read[middle:] = _unequal(n - middle)
    return Codes(write, read)


def _unequal(length: int) -> Tensor:
    """Entries from 1 down, each another, none 0, of sum zero: in even steps, or 1 against the rest of an odd number."""
    if length % 2 == 0:
        return torch.linspace(1, -1, length, dtype=torch.float64)
    rest = torch.arange(1, length, dtype=torch.float64)
    return torch.cat((torch.ones(1).double(), -rest / rest.sum()))


_BITS = {1: ((1, 0),), 2: ((1, 1), (1, -1)), 3: ((3, 1), (2, -1), (1, -1))}
"""Number of factors -> what write and read code take of the signs of each: no product of a row is 0, their sum is."""


def signed_codes(n: int) -> Codes:
    """Codes for Kronecker products of equal 2 x 2 mixtures, made of signs: + where a bit of the stream is 0, - for 1.

    The signs of each bit are an eigenvector. A gradient that tells them apart reaches the mixture of each factor.
    """
    taken = torch.tensor(_BITS[n.bit_length() - 1], dtype=torch.float64)
    stream, bit = torch.arange(n), torch.arange(len(taken)).flip(0)
    signs = 1.0 - 2.0 * (stream[:, None] >> bit & 1)
    write, read = (signs.double() @ taken / taken.abs().sum(0).clamp_min(1)).unbind(1)
    return Codes(write, read)


def unequal_weights(n: int, position: int) -> Tensor:
    """Read weights `[n]` of sum 1, spread evenly from 0.5/n to 1.5/n and rotated by `position`."""
    spread = torch.linspace(-1, 1, n, dtype=torch.float64) if n > 1 else torch.zeros(1, dtype=torch.float64)
    return ((1 + READ_DEPTH * spread) / n).roll(position)


def gate_biases(
    n: int,
    *,
    position: int,
    linear: bool,
    codes: Codes | None = None,
    magnitude: float = 2.0,
    eps: float = 0.0,
) -> tuple[Tensor, Tensor]:
    """Biases of the gates `sigmoid + eps` of the read and `magnitude * sigmoid + eps` of the write, `[n]` each, n >= 2.

    Linear stream paths: `codes`, by default `halved_codes(n)`. Streams differ only along that of the write, which R
    maps to a multiple of itself and no read sees, so the function is kept while the gradient of R is alive.
    Nonlinear paths: streams stay equal, and unequal reads break the symmetry instead.
    A magnitude too small to write 1 starts in the middle, as releases do.
    """
    codes = codes or halved_codes(n)
    pre = read_bias(codes, eps) if linear else torch.logit(unequal_weights(n, position) - eps)
    if not writes_one(magnitude, eps):
        return pre, torch.zeros(n, dtype=torch.float64)
    written = 1 + WRITE_DEPTH * codes.write if linear else torch.ones(n).double()
    return pre, torch.logit((written - eps) / magnitude)


def writes_one(magnitude: float, eps: float) -> bool:
    """Whether a write gate reaches all that a start asks of it, `1 + WRITE_DEPTH` at most."""
    return magnitude + eps > 1 + WRITE_DEPTH


def read_bias(codes: Codes, eps: float = 0.0) -> Tensor:
    """Bias `[n]` of a read gate that takes the mean plus the read code, n >= 2."""
    return torch.logit((1 + READ_DEPTH * codes.read) / len(codes.read) - eps)


def mean_bias(n: int, eps: float = 0.0) -> Tensor:
    """Bias `[n]` of a read gate that takes the mean, n >= 2."""
    return torch.logit(torch.full((n,), 1 / n - eps, dtype=torch.float64))


def projection_weights(shape: tuple[int, ...], *, init: str, generator: torch.Generator | None) -> Tensor:
    """Zero for `init="preserve"`, N(0, 0.02) otherwise; fp32, on the device of the generator."""
    if init == "preserve":
        return torch.zeros(shape)
    return PHI_STD * torch.randn(shape, generator=generator, device=generator.device if generator else None)


def cosines(rows: int, columns: int) -> Tensor:
    """Columns `[rows, columns]` of a cosine transform, each of length one: a map that is neither zero nor drawn."""
    at = (torch.arange(rows, dtype=torch.float64) + 0.5)[:, None] * (torch.arange(columns) + 1)
    return torch.cos(math.pi / rows * at) * math.sqrt(2 / rows)
