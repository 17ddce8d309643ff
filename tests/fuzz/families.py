"""The two layouts of a drawn network, tokens `[B, T, C]` and images `[B, C, H, W]`, behind one set of layers."""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import Tensor, nn

BATCH, TOKENS, SIDE = 2, 3, 4


@dataclass(frozen=True)
class Family:
    """Layers that fit one layout; `channels` is C."""

    images: bool
    channels: int

    @property
    def shape(self) -> tuple[int, ...]:
        """Shape of the stream."""
        return (BATCH, self.channels, SIDE, SIDE) if self.images else (BATCH, TOKENS, self.channels)

    @property
    def of_samples(self) -> tuple[int, ...]:
        """Shape of a value for each sample."""
        return (BATCH, 1, 1, 1) if self.images else (BATCH, 1, 1)

    @property
    def axis(self) -> int:
        """The channel axis."""
        return 1 if self.images else 2

    @property
    def mixed_axis(self) -> int:
        """An axis of positions: the tokens, or the rows of an image."""
        return 2 if self.images else 1

    def mix(self, before: int = 1, after: int = 1) -> nn.Module:
        """A learnable matrix from `before * C` to `after * C` channels."""
        sizes = (before * self.channels, after * self.channels)
        return nn.Conv2d(*sizes, 3, padding=1) if self.images else nn.Linear(*sizes)

    def norm(self) -> nn.Module:
        """A normalisation that treats each sample alone."""
        return nn.GroupNorm(2, self.channels) if self.images else nn.LayerNorm(self.channels)

    def vector(self, mean: float = 1.0) -> nn.Parameter:
        """A learnable scale per channel."""
        shape = (self.channels, 1, 1) if self.images else (self.channels,)
        return nn.Parameter(mean + 0.1 * torch.randn(shape))

    def rms_norm(self, x: Tensor, weight: Tensor) -> Tensor:
        """RMSNorm spelled out."""
        return weight * (x * torch.rsqrt(x.pow(2).mean(self.axis, keepdim=True) + 1e-6))
