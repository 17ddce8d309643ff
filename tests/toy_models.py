"""Small models for tests: each shows one thing that real models do."""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import nn
from torch.utils.checkpoint import checkpoint

WIDTH = 8


class Block(nn.Module):
    """`x + f(norm(x))`."""

    def __init__(self, width: int = WIDTH) -> None:
        super().__init__()
        self.norm = nn.LayerNorm(width)
        self.up = nn.Linear(width, 2 * width)
        self.down = nn.Linear(2 * width, width)
        self.drop = nn.Dropout(0.0)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        return x + self.drop(self.down(torch.relu(self.up(self.norm(x)))))


class Tower(nn.Module):
    """Blocks in a row with a head that is tied to an unused parameter's neighbour, a buffer and a class attribute."""

    family = "tower"

    def __init__(self, depth: int = 3, width: int = WIDTH) -> None:
        super().__init__()
        self.stem = nn.Linear(width, width)
        self.blocks = nn.ModuleList([Block(width) for _ in range(depth)])
        self.head = nn.Linear(width, width)
        self.head.weight = self.stem.weight  # tied
        self.unused = nn.Linear(2, 2)
        self.register_buffer("scale", torch.ones(width))
        self.comment = "kept"

    def forward(self, x: torch.Tensor, mask: torch.Tensor | None = None, gain: float = 1.0) -> torch.Tensor:
        x = self.stem(x) * self.scale
        if mask is not None:
            x = x * mask
        for block in self.blocks:
            x = block(x)
        return self.head(x) * gain


class Normalised(nn.Module):
    """Batch norm outside of the residual path, as frozen in fine-tuning."""

    def __init__(self) -> None:
        super().__init__()
        self.bn = nn.BatchNorm1d(WIDTH)
        self.blocks = nn.Sequential(Block(), Block())

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        return self.blocks(self.bn(x))


class Tokens(nn.Module):
    """Token ids in, dict out, with a region without gradients as in rotary embeddings."""

    def __init__(self) -> None:
        super().__init__()
        self.embed = nn.Embedding(11, WIDTH)
        self.blocks = nn.Sequential(Block(), Block())

    def forward(self, ids: torch.Tensor, labels: torch.Tensor | None = None) -> dict[str, torch.Tensor]:
        with torch.no_grad():
            position = torch.arange(ids.shape[1], device=ids.device)[None, :, None] / 10
        hidden = self.blocks(self.embed(ids) + position)
        out = {"hidden": hidden}
        if labels is not None:
            out["loss"] = (hidden.mean(-1) - labels).square().mean()
        return out


class Forked(nn.Module):
    """Takes another path, with other weights, for long inputs."""

    def __init__(self) -> None:
        super().__init__()
        self.short = nn.Sequential(Block(), Block())
        self.long = nn.Sequential(Block(), Block())

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        return self.long(x) if x.shape[1] > 5 else self.short(x)


class Checkpointed(nn.Module):
    """Activation checkpointing inside the branch, and a tensor that is no buffer."""

    def __init__(self) -> None:
        super().__init__()
        self.inner = nn.Linear(WIDTH, WIDTH)
        self.block = Block()
        self.shift = torch.full((WIDTH,), 0.5)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        x = x + checkpoint(self.inner, x, use_reentrant=False)
        return self.block(x * self.shift)


@dataclass
class Answer:
    """An output class that is known to pytree only once registered."""

    value: torch.Tensor


class Branching(nn.Module):
    """Cannot be traced: Python control flow on the value of a tensor."""

    def __init__(self) -> None:
        super().__init__()
        self.block = Block()

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        return self.block(x) if x.sum() > 0 else x


class Integers(nn.Module):
    """Computes on integers only."""

    def forward(self, ids: torch.Tensor) -> torch.Tensor:
        return ids + ids.flip(0)
