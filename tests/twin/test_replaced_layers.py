"""A layer that is put in place of another after `transform` is traced."""

from __future__ import annotations

import torch
from torch import nn

import mhc_compile
from tests.moved import move
from tests.toy_models import WIDTH, Tower
from tests.twin.towers import X


class Adapter(nn.Module):
    """A linear layer with a correction beside it."""

    def __init__(self, base):
        super().__init__()
        self.base, self.extra = base, nn.Linear(base.in_features, base.out_features)

    def forward(self, x):
        return self.base(x) + self.extra(x)


def test_an_adapter_put_in_place_of_a_layer_is_traced_and_trained():
    twin = move(mhc_compile.transform(Tower(), n=4, example_inputs=(X,), modes=("train",)))
    before = twin(X)
    adapter = twin.blocks[0].up = Adapter(twin.blocks[0].up)
    with torch.no_grad():
        adapter.extra.bias.zero_()
        weight = adapter.extra.weight.clone()
        adapter.extra.weight.zero_()
        torch.testing.assert_close(twin(X), before)
        adapter.extra.weight.copy_(weight)
    assert not torch.allclose(twin(X), before)
    twin(X).sum().backward()
    assert twin.blocks[0].up.extra.weight.grad.abs().sum() > 0


class Doubling(nn.Linear):
    """Has what a linear layer has, and computes something else."""

    def forward(self, x):
        return 2 * super().forward(x)


def test_a_layer_put_in_place_of_one_with_the_same_parameters_is_traced():
    twin = move(mhc_compile.transform(Tower(), n=4, example_inputs=(X,), modes=("train",)))
    before = twin(X)
    halved = {name: value / 2 for name, value in twin.blocks[0].up.state_dict().items()}
    twin.blocks[0].up = Doubling(WIDTH, 2 * WIDTH)
    twin.blocks[0].up.load_state_dict(halved)
    torch.testing.assert_close(twin(X), before)
