"""Transformed models with new parameters that were moved: what runs plain by mistake has other numbers then."""

from __future__ import annotations

import torch
from torch import Tensor, nn

import mhc_compile
from tests.copies import copied
from tests.toy_models import WIDTH, Block

X = torch.randn(4, 5, WIDTH, generator=torch.Generator().manual_seed(0))


class Net(nn.Module):
    """Stem, two blocks and a head."""

    block: type[nn.Module] = Block

    def __init__(self) -> None:
        super().__init__()
        self.stem, self.head = nn.Linear(WIDTH, WIDTH), nn.Linear(WIDTH, 4)
        self.blocks = nn.ModuleList(self.block() for _ in range(2))

    def forward(self, x: Tensor) -> Tensor:
        x = self.stem(x)
        for block in self.blocks:
            x = block(x)
        return self.head(x)


def moved(model: nn.Module, **options: object) -> nn.Module:
    """`transform` in the mode of the model alone, with new parameters moved by noise."""
    options = {"example_inputs": (X,), "modes": ("train" if model.training else "eval",), **options}
    return move(mhc_compile.transform(model, **options))


@copied
def net(kind: type[nn.Module] = Net) -> nn.Module:
    """`moved` of a class that is made without arguments, in training; traced once for all tests of a process."""
    return moved(kind())


def move(model: nn.Module) -> nn.Module:
    """The model itself, with new parameters moved by noise."""
    generator = torch.Generator().manual_seed(1)
    with torch.no_grad():
        for parameter in model.hyper_connections.parameters():
            parameter.add_(0.3 * torch.randn(parameter.shape, generator=generator))
    return model


def programs(model: nn.Module, path: str = "") -> int:
    """How many programs a module has."""
    return len(model._mhc.entry(path).programs)
