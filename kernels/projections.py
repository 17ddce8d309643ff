"""Maps from free logits to mixing matrices. A new one is one function and one row of the table."""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from itertools import permutations
from types import MappingProxyType

import torch
from torch import Tensor

from mhc_compile.config import MAX_STREAMS, MAX_STREAMS_LITE
from mhc_compile.kernels import initial, reference
from mhc_compile.kernels.sinkhorn import sinkhorn as sinkhorn_of

# Logit of the diagonal at the start. Much larger ones saturate: from 8 on the gradient through Sinkhorn is dead.
TAU = 2.0


@dataclass(frozen=True)
class Projection:
    """A map from L logits to an n x n mixing matrix.

    Attributes:
        matrix: logits `[L, ...]` and n to `R [n, n, ...]`, rows indexing the output stream.
        logits: n to the number of logits L.
        start: n to the logits (fp64, `[L]`) that make R close to the identity and symmetric under permutations.
        max_streams: the largest n it is meant for.
        powers: n must be a power of two.
        code: n to the zero-mean vector `e [n]` along which streams may differ from the start: an eigenvector of R,
            orthogonal to `initial.read_code(n)`.
    """

    matrix: Callable[[Tensor, int], Tensor]
    logits: Callable[[int], int]
    start: Callable[[int], Tensor]
    max_streams: int = MAX_STREAMS
    powers: bool = False
    code: Callable[[int], Tensor] = initial.write_code


def sinkhorn(logits: Tensor, n: int) -> Tensor:
    """Twenty Sinkhorn iterations on row-major logits `[n * n, ...]`: doubly stochastic, columns approximately."""
    return sinkhorn_of(unconstrained(logits, n))


def permutation_mixture(logits: Tensor, n: int) -> Tensor:
    """Softmax-weighted mean of the n! permutation matrices, logits in the order of `itertools.permutations`.

    Doubly stochastic to rounding, and by Birkhoff's theorem every doubly stochastic matrix is such a mean.
    """
    # Stacked from rows of one identity matrix: no constant has to be copied from the host to the device.
    rows = torch.eye(n, dtype=logits.dtype, device=logits.device).unbind(0)
    matrices = torch.stack([rows[column] for order in permutations(range(n)) for column in order])
    return torch.tensordot(matrices.reshape(-1, n, n), torch.softmax(logits, dim=0), dims=([0], [0]))


def identity(logits: Tensor, n: int) -> Tensor:
    """`R = I` with every token dim of size 1; takes no logits (`[0, ...]`, for their dtype, device and rank)."""
    return reference.over_tokens(torch.eye(n, dtype=logits.dtype, device=logits.device), logits)


def kronecker(logits: Tensor, n: int) -> Tensor:
    """Kronecker product of log2(n) mixtures of the two permutations of size 2; `[identity, swap]` for each factor.

    Doubly stochastic to rounding, for a power of two. The first factor mixes the halves of the streams. Source: KromHC,
    arXiv 2601.21579.
    """
    R = torch.ones_like(logits[:1]).unsqueeze(0)
    for weights in torch.softmax(logits.unflatten(0, (-1, 2)), dim=1).unbind(0):
        keep, swap = weights.unbind(0)
        factor = torch.stack([torch.stack([keep, swap]), torch.stack([swap, keep])])
        R = torch.einsum("ij...,kl...->ikjl...", R, factor).flatten(0, 1).flatten(1, 2)
    return R


def circulant(logits: Tensor, n: int) -> Tensor:
    """`(1 - g) I + g sum_k softmax(z)_k P^k` with `g = sigmoid(logits[0])`, `z = logits[1:]` and P the cyclic shift.

    Doubly stochastic to rounding; row i of `P^k` has its 1 in column i + k.
    """
    gate, weights = torch.sigmoid(logits[0]), torch.softmax(logits[1:], dim=0)
    eye = reference.over_tokens(torch.eye(n, dtype=logits.dtype, device=logits.device), logits)
    shifted = torch.stack([weights.roll(row, 0) for row in range(n)])
    return (1 - gate) * eye + gate * shifted


def unconstrained(logits: Tensor, n: int) -> Tensor:
    """The row-major logits `[n * n, ...]` themselves: any matrix, as in hyper-connections without a manifold."""
    return logits.reshape(n, n, *logits.shape[1:])


def _diagonal(n: int) -> Tensor:
    return TAU * torch.eye(n, dtype=torch.float64).flatten()


def _identity_first(n: int) -> Tensor:
    """The identity (first in order) outweighs the rest so that R equals `sinkhorn(TAU I)`.

    With weight e^t on the identity and 1 on each other permutation, the ratio of a diagonal to an off-diagonal entry
    is (e^t + (n-1)! - 1) / (n-1)!, here solved for e^TAU.
    """
    logits = torch.zeros(math.factorial(n), dtype=torch.float64)
    logits[0] = math.log1p(math.expm1(TAU) * math.factorial(n - 1))
    return logits


def _mostly_kept(n: int) -> Tensor:
    """Factors whose product has the diagonal of sinkhorn(TAU I): nearer to the identity the more there are."""
    factors = n.bit_length() - 1
    kept = (math.exp(TAU) / (math.exp(TAU) + n - 1)) ** (1 / factors)
    return torch.tensor([math.log(kept / (1 - kept)), 0.0] * factors, dtype=torch.float64)


def _even_shifts(n: int) -> Tensor:
    """All shifts alike, with the gate that makes R equal to sinkhorn(TAU I)."""
    return torch.tensor([math.log(n / math.expm1(TAU)), *[0.0] * n], dtype=torch.float64)


PROJECTIONS: Mapping[str, Projection] = MappingProxyType(
    {
        "sinkhorn": Projection(sinkhorn, lambda n: n * n, _diagonal),
        "permutations": Projection(permutation_mixture, math.factorial, _identity_first, MAX_STREAMS_LITE),
        "kronecker": Projection(
            kronecker,
            lambda n: 2 * (n.bit_length() - 1),
            _mostly_kept,
            powers=True,
            code=initial.halves_code,
        ),
        "circulant": Projection(circulant, lambda n: n + 1, _even_shifts),
        "identity": Projection(identity, lambda n: 0, lambda n: torch.zeros(0, dtype=torch.float64)),
        "unconstrained": Projection(unconstrained, lambda n: n * n, lambda n: torch.eye(n).double().flatten()),
    }
)
