"""Models of which methods and users call a part."""

from __future__ import annotations

import torch
from torch import Tensor, nn

from tests.moved import Net
from tests.toy_models import WIDTH, Block


class Lit(nn.Module):
    """Its own methods call a part, as trainers and packages do."""

    def __init__(self) -> None:
        super().__init__()
        self.net = Net()

    def forward(self, x: Tensor) -> Tensor:
        return self.net(x)

    def training_step(self, x: Tensor) -> Tensor:
        return self.net(x).square().mean()

    def score(self, x: Tensor) -> Tensor:
        return self.forward(x)[:, -1]

    def predict(self, x: Tensor) -> Tensor:
        with torch.no_grad():
            return self(x).argmax(-1)


class Features(nn.Module):
    """Has its blocks in a container that holds all of them."""

    def __init__(self) -> None:
        super().__init__()
        self.features, self.head = nn.Sequential(Block(), Block()), nn.Linear(WIDTH, 4)

    def forward(self, x: Tensor) -> Tensor:
        return self.head(self.forward_features(x))

    def forward_features(self, x: Tensor) -> Tensor:
        return self.features(x)
