"""Small models with hyper-connections for tests of generated programs; the same in every process."""

from __future__ import annotations

from functools import partial
from typing import Any

import torch
from torch import Tensor, nn

import mhc_compile

SITES_PER_BLOCK = 2
Example = tuple[nn.Module, tuple[Tensor]]


class Block(nn.Module):
    """Attention in plain operations, which the CPU has too, and an MLP."""

    def __init__(self, width: int, hidden: int) -> None:
        super().__init__()
        self.norms = nn.ModuleList(nn.LayerNorm(width) for _ in range(SITES_PER_BLOCK))
        self.qkv = nn.Linear(width, 3 * hidden)
        self.out = nn.Linear(hidden, width)
        self.up = nn.Linear(width, hidden)
        self.down = nn.Linear(hidden, width)

    def forward(self, x: Tensor) -> Tensor:
        q, k, v = self.qkv(self.norms[0](x)).chunk(3, -1)
        x = x + self.out(torch.softmax(q @ k.transpose(-1, -2) / q.shape[-1] ** 0.5, -1) @ v)
        return x + self.down(torch.relu(self.up(self.norms[1](x))))


class Convolution(nn.Module):
    """`x + conv(relu(norm(x)))`."""

    def __init__(self, channels: int) -> None:
        super().__init__()
        self.norm = nn.GroupNorm(2, channels)
        self.conv = nn.Conv2d(channels, channels, 3, padding=1)

    def forward(self, x: Tensor) -> Tensor:
        return x + self.conv(torch.relu(self.norm(x)))


def plain(width: int, *, depth: int = 2, hidden: int = 64, dtype: torch.dtype = torch.float32) -> Example:
    """Blocks in a row, and a batch with more tokens than a tile takes, but no multiple of it."""
    torch.manual_seed(0)
    model = nn.Sequential(*(Block(width, hidden) for _ in range(depth)))
    return model.to(dtype), (torch.randn(2, 12, width, dtype=dtype),)


def transformer(width: int, *, n: int = 4, reduce: str = "mean", connection: str = "mhc", **options: Any) -> Example:
    """`plain` with n streams."""
    return _transformed(plain(width, **options), n, reduce, connection)


def convolutions(channels: int, *, n: int = 4) -> Example:
    """Two sites with the channels in front of height and width."""
    torch.manual_seed(0)
    model = nn.Sequential(*(Convolution(channels) for _ in range(2)))
    return _transformed((model, (torch.randn(2, channels, 5, 6),)), n, "mean")


def _transformed(example: Example, n: int, reduce: str, connection: str = "mhc") -> Example:
    """No parameter of a connection has a special value."""
    model, inputs = example
    model = mhc_compile.transform(model, n, example_inputs=inputs, init="random", reduce=reduce, connection=connection)
    torch.manual_seed(2)
    with torch.no_grad():
        for parameter in model.hyper_connections.parameters():
            parameter.add_(0.3 * torch.randn_like(parameter))
    return model, inputs


CASES = {
    "transformer": partial(transformer, 64),
    "24 channels": partial(transformer, 24),
    "learned readout": partial(transformer, 64, reduce="learned"),  # behind a write of its own
    "single pass": partial(transformer, 24, connection="mhc-single-pass"),
    "mhc-lite": partial(transformer, 24, connection="mhc-lite"),
    "8 streams": partial(transformer, 24, n=8),
    "channels first": partial(convolutions, 20),
}
"""Those that tests run as a whole."""
