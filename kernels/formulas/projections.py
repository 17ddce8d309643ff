"""Maps from free logits to mixing matrices. A new one is one function and one row of the table, and a connection."""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from itertools import permutations
from types import MappingProxyType

import torch
from torch import Tensor

from mhc_compile.kernels.formulas import initial_values as initial
from mhc_compile.kernels.formulas import reference
from mhc_compile.kernels.formulas.about import About
from mhc_compile.kernels.formulas.sinkhorn import sinkhorn as sinkhorn_of
from mhc_compile.kernels.formulas.sinkhorn import sinkhorn_backward

MAX_STREAMS = 8
MAX_STREAMS_LITE = 4  # mhc-lite enumerates n! permutations
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
        codes: n to the two vectors along which streams are written and read at the start: R maps the write code to a
            multiple of itself.
        connection: what a user writes to get it; "" for none.
        about: its row in the table for users.
        backward: the gradient of R `[n, n, ...]`, the logits and n to the gradient of the logits. With it, write, gate
            and read are fused steps; without it they run one after the other in plain PyTorch.
    """

    matrix: Callable[[Tensor, int], Tensor]
    logits: Callable[[int], int]
    start: Callable[[int], Tensor]
    max_streams: int = MAX_STREAMS
    powers: bool = False
    codes: Callable[[int], initial.Codes] = initial.halved_codes
    connection: str = ""
    about: About | None = None
    backward: Callable[[Tensor, Tensor, int], Tensor] | None = None


def sinkhorn(logits: Tensor, n: int) -> Tensor:
    """Twenty Sinkhorn iterations on row-major logits `[n * n, ...]`: doubly stochastic, columns approximately."""
    return sinkhorn_of(unconstrained(logits, n))


def permutation_mixture(logits: Tensor, n: int) -> Tensor:
    """Softmax-weighted mean of the n! permutation matrices, logits in the order of `itertools.permutations`.

    Doubly stochastic to rounding, and by Birkhoff's theorem every doubly stochastic matrix is such a mean.
    """
    return torch.tensordot(_permutations(logits, n), torch.softmax(logits, dim=0), dims=([0], [0]))


def _permutations(logits: Tensor, n: int) -> Tensor:
    """All permutation matrices `[n!, n, n]`, in order; stacked, so that no constant is copied to a device."""
    rows = torch.eye(n, dtype=logits.dtype, device=logits.device).unbind(0)
    return torch.stack([rows[column] for order in permutations(range(n)) for column in order]).reshape(-1, n, n)


def _permutation_mixture_backward(grad: Tensor, logits: Tensor, n: int) -> Tensor:
    gradients = torch.tensordot(_permutations(logits, n), grad, dims=([1, 2], [0, 1]))
    return _softmax_backward(gradients, torch.softmax(logits, dim=0))


def _softmax_backward(grad: Tensor, weights: Tensor) -> Tensor:
    """The gradient of the logits of `weights`, which sum to 1 along the first axis."""
    return weights * (grad - (weights * grad).sum(0, keepdim=True))


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


def _kronecker_backward(grad: Tensor, logits: Tensor, n: int) -> Tensor:
    """R_ij is a product over the bits of i xor j: of each factor the weight of a 0, `keep`, or of a 1, `swap`."""
    weights = torch.softmax(logits.unflatten(0, (-1, 2)), dim=1)
    factors = weights.shape[0]
    along = torch.stack([sum((grad[i, i ^ x] for i in range(1, n)), grad[0, x]) for x in range(n)])
    gradients = []
    for f in range(factors):
        rest = along
        for other in range(factors):
            if other != f:
                rest = rest * torch.stack([weights[other, x >> (factors - 1 - other) & 1] for x in range(n)])
        sides = rest.unflatten(0, (1 << f, 2, -1)).sum((0, 2))
        gradients.append(_softmax_backward(sides, weights[f]))
    return torch.cat(gradients)


def circulant(logits: Tensor, n: int) -> Tensor:
    """`(1 - g) I + g sum_k softmax(z)_k P^k` with `g = sigmoid(logits[0])`, `z = logits[1:]` and P the cyclic shift.

    Doubly stochastic to rounding; row i of `P^k` has its 1 in column i + k.
    """
    gate, weights = torch.sigmoid(logits[0]), torch.softmax(logits[1:], dim=0)
    eye = reference.over_tokens(torch.eye(n, dtype=logits.dtype, device=logits.device), logits)
    shifted = torch.stack([weights.roll(row, 0) for row in range(n)])
    return (1 - gate) * eye + gate * shifted


def _circulant_backward(grad: Tensor, logits: Tensor, n: int) -> Tensor:
    gate, weights = torch.sigmoid(logits[0]), torch.softmax(logits[1:], dim=0)
    along = torch.stack([sum((grad[i, (i + k) % n] for i in range(1, n)), grad[0, k]) for k in range(n)])
    opened = gate * (1 - gate) * ((weights * along).sum(0) - along[0])  # along[0] is the trace
    return torch.cat((opened.unsqueeze(0), _softmax_backward(gate * along, weights)))


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


def _sinkhorn_backward(grad: Tensor, logits: Tensor, n: int) -> Tensor:
    return sinkhorn_backward(grad, unconstrained(logits, n), reference.SINKHORN_ITERATIONS).flatten(0, 1)


PROJECTIONS: Mapping[str, Projection] = MappingProxyType(
    {
        "sinkhorn": Projection(
            sinkhorn,
            lambda n: n * n,
            _diagonal,
            connection="mhc",
            about=About("Sinkhorn, 20 iterations", source="Xie et al., arXiv 2512.24880", ships="DeepSeek-V4, GLM-5"),
            backward=_sinkhorn_backward,
        ),
        "permutations": Projection(
            permutation_mixture,
            math.factorial,
            _identity_first,
            MAX_STREAMS_LITE,
            connection="mhc-lite",
            about=About("convex mix of all n! permutations, n <= 4", source="mHC-lite, after Birkhoff"),
            backward=_permutation_mixture_backward,
        ),
        "kronecker": Projection(
            kronecker,
            lambda n: 2 * (n.bit_length() - 1),
            _mostly_kept,
            powers=True,
            codes=initial.signed_codes,
            connection="kronecker",
            about=About("product of 2 x 2 mixtures; n = 2, 4, 8", source="KromHC, arXiv 2601.21579"),
            backward=_kronecker_backward,
        ),
        "circulant": Projection(
            circulant,
            lambda n: n + 1,
            _even_shifts,
            connection="circulant",
            about=About("gated mixture of cyclic shifts", source="C-mHC"),
            backward=_circulant_backward,
        ),
        "identity": Projection(
            identity,
            lambda n: 0,
            lambda n: torch.zeros(0, dtype=torch.float64),
            connection="identity",
            about=About(
                "identity", "sigmoid + eps, magnitude x sigmoid + eps", "Hyper-connections without mixing", "Hy-V4"
            ),
            backward=lambda grad, logits, n: torch.zeros_like(logits),
        ),
        "unconstrained": Projection(
            unconstrained,
            lambda n: n * n,
            lambda n: torch.eye(n).double().flatten(),
            backward=lambda grad, logits, n: grad.flatten(0, 1),
        ),
    }
)
