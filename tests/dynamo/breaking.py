"""Models that break the graph: once between two halves, and in a loop."""

from __future__ import annotations

import torch
from torch import nn

from tests.toy_models import Block


class Halves(nn.Module):
    """Two pairs of blocks with a break between them; one block is used on both sides."""

    def __init__(self) -> None:
        super().__init__()
        self.front = nn.Sequential(Block(), Block())
        self.back = nn.Sequential(Block(), Block())
        self.shared = Block()

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        x = self.shared(self.front(x))
        if self.training:
            torch._dynamo.graph_break()
        return self.back(self.shared(x))


class Loop(nn.Module):
    """A break inside a loop, which makes Dynamo leave the whole function."""

    def __init__(self) -> None:
        super().__init__()
        self.blocks = nn.ModuleList(Block() for _ in range(3))

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        for block in self.blocks:
            x = block(x)
            torch._dynamo.graph_break()
        return x


HALVES = ["front.0", "front.1", "shared", "shared#2", "back.0", "back.1"]


LOOP = ["blocks.0", "blocks.1", "blocks.2"]


def made(kind: type[nn.Module]) -> nn.Module:
    torch.manual_seed(0)
    return kind().double()
