"""Where released models start, for `init="paper"`: from scratch, with no function to keep.

From the `_init_weights` of DeepSeek-V4, Hy-V4 and Qwen4-exp in Transformers. Hyper-connections start as their paper
says anyway (Zhu et al., arXiv 2409.19606: one-hot reads, R = I, no dynamic part).
"""

from __future__ import annotations

import math
from collections.abc import Callable
from dataclasses import dataclass

import torch
from torch import Tensor

from mhc_compile.kernels.formulas import initial_values as initial
from mhc_compile.kernels.formulas.manifolds import Manifold


@dataclass(frozen=True)
class Release:
    """Of a site, and of the learned readout that goes with it: phi is drawn from N(0, 0.02), the bias is constant.

    Attributes:
        alpha: what logits are scaled by.
        read_bias: n to the bias of read gates; that of all others is 0.
    """

    alpha: float
    read_bias: Callable[[int], float]


DEEPSEEK = Release(1.0, lambda n: 0.0)
HUNYUAN = Release(initial.ALPHA, lambda n: -math.log(max(n - 1, 1)))


def site_values(release: Release, manifold: Manifold, start: initial.Start) -> dict[str, Tensor]:
    """Initial values of a site by name."""
    columns = manifold.columns(start.n)
    bias = torch.zeros(columns, dtype=torch.float64)
    bias[: start.n] = release.read_bias(start.n)
    phi = initial.projection_weights((start.n * start.channels, columns), init="random", generator=start.generator)
    return {"phi": phi, "alpha": torch.full((len(manifold.parts(start.n)),), release.alpha), "bias": bias}


def readout_values(release: Release, n: int, channels: int, generator: torch.Generator | None) -> dict[str, Tensor]:
    """Initial values of a learned readout by name."""
    phi = initial.projection_weights((n * channels, n), init="random", generator=generator)
    return {
        "phi": phi,
        "alpha": torch.full((1,), release.alpha),
        "bias": torch.full((n,), release.read_bias(n)).double(),
    }
