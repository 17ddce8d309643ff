"""How the streams of a token are normed before they are projected, and the function between logits and what they scale.

A gate norms all streams of a token together, by 1 / rms. Hyper-connections (Zhu et al., arXiv 2409.19606) norm each
stream on its own, as LayerNorm does, and bound the projection by tanh; column k of phi belongs to stream k mod n alone.

`V [m, T, C]` are m streams as rows of tokens, m == 1 where one stands for all n. Statistics `[T, S]` are kept for the
backward: 1 / rms; or 1 / std of each of n streams, then the mean of each.
"""

from __future__ import annotations

import torch
from torch import Tensor

from mhc_compile.kernels.formulas import reference
from mhc_compile.kernels.formulas.manifolds import Manifold


def statistics(V: Tensor, n: int, manifold: Manifold) -> Tensor:
    """`[T, S]` of the streams as they are."""
    if not manifold.hyper:
        return torch.rsqrt(V.square().mean((0, 2)) + reference.RMS_EPS)[:, None]
    inverse = torch.rsqrt(V.var(2, unbiased=False) + reference.LAYER_NORM_EPS)
    return torch.cat((inverse.expand(n, -1), V.mean(2).expand(n, -1))).t()


def inverses(found: Tensor, n: int, manifold: Manifold) -> Tensor:
    """What the projection is multiplied with, `[T, 1]`, or `[T, K]` where columns have streams of their own."""
    return found[:, :n].repeat(1, manifold.columns(n) // n) if manifold.hyper else found


def centred(V: Tensor, found: Tensor, n: int, manifold: Manifold) -> Tensor:
    """The streams without what their norm takes off: the mean of each where it has a norm of its own."""
    return V - found[:, n : n + V.shape[0]].t()[..., None] if manifold.hyper else V


def own(products: Tensor, V: Tensor, n: int, manifold: Manifold) -> Tensor:
    """`[T, K]` summed over the columns of each norm, and divided by how many numbers it takes: `[m or 1, T, 1]`."""
    if manifold.hyper and V.shape[0] == n:
        return products.unflatten(1, (-1, n)).sum(1).t()[..., None] / V.shape[2]
    return (products.sum(1) / (V.shape[0] * V.shape[2]))[None, :, None]


def per_stream(found: Tensor, V: Tensor, n: int, manifold: Manifold) -> Tensor:
    """The factors 1 / rms or 1 / std as `[m or 1, T, 1]`."""
    return found[:, : V.shape[0] if manifold.hyper else 1].t()[..., None]


def response(z: Tensor, manifold: Manifold) -> Tensor:
    """What alpha scales: the normed projection itself, or its tanh."""
    return torch.tanh(z) if manifold.hyper else z


def slopes(z: Tensor, manifold: Manifold) -> tuple[Tensor, Tensor]:
    """First and second derivative of `response`."""
    if not manifold.hyper:
        return torch.ones_like(z), torch.zeros_like(z)
    t = torch.tanh(z)
    first = 1 - t * t
    return first, -2 * t * first
