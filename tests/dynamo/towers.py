"""The model that tests of the backend compile, its inputs, and how far two outputs are apart."""

from __future__ import annotations

import torch
from torch import nn

import mhc_compile
from tests.copies import copied
from tests.toy_models import WIDTH, Tower


def tower(blocks: int = 3) -> Tower:
    torch.manual_seed(0)
    return Tower(blocks).double()


@copied
def in_advance(blocks: int = 3) -> nn.Module:
    """`tower(blocks)`, given to `transform`."""
    return mhc_compile.transform(tower(blocks), example_inputs=(inputs(),), modes=("train",))


def inputs(*sizes: int) -> torch.Tensor:
    return torch.randn(*(sizes or (3, 5)), WIDTH, dtype=torch.float64)


def distance(a: torch.Tensor, b: torch.Tensor) -> float:
    """Largest difference in units of the root mean square of `b`."""
    return ((a - b).abs().max() / b.square().mean().sqrt()).item()


def randomise(*models: nn.Module) -> None:
    """The same random new parameters for all, so that a wrong one shows."""
    with torch.no_grad():
        for group in zip(*(model.hyper_connections.parameters() for model in models), strict=True):
            noise = torch.randn_like(group[0]) * 0.3
            for parameter in group:
                parameter.add_(noise)


TRAIN = ("train",)  # most models here are called in one mode, and are traced in that


def eager(**options: object) -> mhc_compile.Backend:
    return mhc_compile.backend(inner="eager", **options)
