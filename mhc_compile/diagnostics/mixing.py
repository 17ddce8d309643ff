"""Gains of single R and of products of R over depth, as in the mHC paper.

Xie et al., arXiv 2512.24880, section 3: the gain of a forward signal is the largest absolute row sum, that of a
gradient the largest absolute column sum, taken for each token.
"""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor

_TINY = torch.finfo(torch.float64).tiny


@dataclass(frozen=True)
class Mixing:
    """Figures of S sites of n streams at T tokens, `[S, T]` unless said otherwise.

    Attributes:
        forward: largest absolute row sum.
        backward: largest absolute column sum.
        singular: `[S, T, n]`, the largest first.
        identity: Frobenius distance from the identity.
        uniform: Frobenius distance from 1/n.
        entropy: mean over rows, in units of log n; 0 for one stream.
    """

    forward: Tensor
    backward: Tensor
    singular: Tensor
    identity: Tensor
    uniform: Tensor
    entropy: Tensor

    def at(self, i: int) -> dict[str, Any]:
        """Means over tokens at one site."""
        return {
            "gain_forward": self.forward[i].mean().item(),
            "gain_backward": self.backward[i].mean().item(),
            "singular_values": tuple(self.singular[i].mean(0).tolist()),
            "from_identity": self.identity[i].mean().item(),
            "from_uniform": self.uniform[i].mean().item(),
            "entropy": self.entropy[i].mean().item(),
        }


def mixing_figures(R: Tensor) -> Mixing:
    """Figures of `R [S, T, n, n]`, fp64, rows indexing the output stream; NaN for matrices that are not finite."""
    n = R.shape[-1]
    eye = torch.eye(n, dtype=R.dtype)
    bad = ~torch.isfinite(R).all((-1, -2))
    singular = torch.linalg.svdvals(torch.where(bad[..., None, None], eye, R))
    share = R.abs() / R.abs().sum(-1, keepdim=True).clamp_min(_TINY)
    return Mixing(
        row_gain(R),
        column_gain(R),
        singular.masked_fill(bad[..., None], math.nan),
        torch.linalg.matrix_norm(R - eye),
        torch.linalg.matrix_norm(R - 1 / n),
        torch.special.entr(share).sum(-1).mean(-1) / math.log(n) if n > 1 else torch.zeros_like(R[..., 0, 0]),
    )


def row_gain(R: Tensor) -> Tensor:
    """Largest absolute row sum of `[..., n, n]`: what a forward signal grows by at most."""
    return R.abs().sum(-1).amax(-1)


def column_gain(R: Tensor) -> Tensor:
    """Largest absolute column sum of `[..., n, n]`: what a gradient grows by at most."""
    return R.abs().sum(-2).amax(-1)


@dataclass(frozen=True)
class Chain:
    """One site for products over depth: `R [T, n, n]` in fp64, and the site before, "" at an entry."""

    R: Tensor
    before: str
    moves_tokens: bool = False


def forward_products(sites: Mapping[str, Chain]) -> dict[str, Tensor]:
    """Key -> `R_l ... R_1 [T, n, n]`, from the entry of its segment up to the site; sites in the order of running.

    Where tokens move in front of a site, or are others, the product goes on with the mean over tokens.
    """
    products: dict[str, Tensor] = {}
    for key, site in sites.items():
        known = products.get(site.before)
        products[key] = site.R if known is None else site.R @ _carried(known, site, site.R)
    return products


def backward_products(sites: Mapping[str, Chain]) -> dict[str, list[Tensor]]:
    """Key -> `R_L ... R_l [T, n, n]` for each end L of the segment that can be reached from the site."""
    after: dict[str, list[str]] = {}
    for key, site in sites.items():
        after.setdefault(site.before, []).append(key)
    products: dict[str, list[Tensor]] = {}
    for key, site in reversed(list(sites.items())):
        following = [(sites[k], product) for k in after.get(key, ()) for product in products[k]]
        products[key] = [_carried(product, next_, site.R) @ site.R for next_, product in following] or [site.R]
    return products


def _carried(product: Tensor, site: Chain, like: Tensor) -> Tensor:
    """A product across the border in front of `site`, for the tokens of `like`."""
    if is_aligned(site.moves_tokens, product.shape[0], like.shape[0]):
        return product
    return product.mean(0, keepdim=True)


def is_aligned(moves_tokens: bool, before: int, here: int) -> bool:
    """Whether token t of one site is token t of the next."""
    return not moves_tokens and before == here
