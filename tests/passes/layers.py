"""What the test models are put together from: one module class whose forward is given as a function."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import torch
from torch import Tensor, nn

WIDTH, TOKENS, BATCH, SIDE = 8, 6, 2, 4


class Net(nn.Module):
    """`body(net, *inputs)` over the layers given by name; parameters and buffers are taken as they are."""

    def __init__(self, body: Callable[..., Any], **layers: Any) -> None:
        super().__init__()
        self.body = body
        for name, layer in layers.items():
            setattr(self, name, layer)

    def forward(self, x: Tensor) -> Any:
        return self.body(self, x)


class Net2(Net):
    """The same with two inputs."""

    def forward(self, x: Tensor, y: Tensor) -> Any:
        return self.body(self, x, y)


class Mlp(nn.Sequential):
    """Two linear layers; as `net.f` its site is called `f`."""

    def __init__(self, width: int = WIDTH) -> None:
        super().__init__(nn.Linear(width, 2 * width), nn.GELU(), nn.Linear(2 * width, width))


class Attention(nn.Module):
    """Two heads, hand-written; `forward(x, memory, bias)`."""

    def __init__(self, width: int = WIDTH) -> None:
        super().__init__()
        self.q, self.k, self.v, self.out = (nn.Linear(width, width) for _ in range(4))

    def forward(self, x: Tensor, memory: Tensor | None = None, bias: Tensor | None = None) -> Tensor:
        memory = x if memory is None else memory
        q, k, v = (p(t).unflatten(-1, (2, -1)).transpose(1, 2)
                   for p, t in ((self.q, x), (self.k, memory), (self.v, memory)))  # fmt: skip
        scores = q @ k.transpose(-2, -1) / 2
        if bias is not None:
            scores = scores + bias
        return self.out((torch.softmax(scores, -1) @ v).transpose(1, 2).flatten(2))


class PreNorm(nn.Module):
    """A GPT-2 layer: `x + attention(norm(x))`, `x + mlp(norm(x))`."""

    def __init__(self, width: int = WIDTH) -> None:
        super().__init__()
        self.norm1, self.attn = nn.LayerNorm(width), Attention(width)
        self.norm2, self.mlp = nn.LayerNorm(width), Mlp(width)

    def forward(self, x: Tensor) -> Tensor:
        x = x + self.attn(self.norm1(x))
        return x + self.mlp(self.norm2(x))


def conv(width: int = WIDTH, out: int | None = None, stride: int = 1) -> nn.Sequential:
    """A convolution of 3 with batch norm."""
    out = out or width
    return nn.Sequential(nn.Conv2d(width, out, 3, stride, 1), nn.BatchNorm2d(out))


def mlps(count: int) -> dict[str, Mlp]:
    """`f0`, `f1`, ..."""
    return {f"f{i}": Mlp() for i in range(count)}


def vector(width: int = WIDTH, mean: float = 1.0) -> nn.Parameter:
    """A learnable scale per channel."""
    return nn.Parameter(mean + 0.1 * torch.randn(width))


def tokens(*shape: int, dtype: torch.dtype = torch.float64) -> Tensor:
    """`[BATCH, TOKENS, WIDTH]` if no shape is given."""
    return torch.randn(shape or (BATCH, TOKENS, WIDTH), generator=torch.Generator().manual_seed(0)).to(dtype)


def images(dtype: torch.dtype = torch.float64) -> Tensor:
    """`[BATCH, WIDTH, SIDE, SIDE]`."""
    return tokens(BATCH, WIDTH, SIDE, SIDE, dtype=dtype)
