"""A layer that is put in place of another after `transform` is traced."""

from __future__ import annotations

import copy

import torch
from torch import nn

import mhc_compile
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
    model = Tower()
    twin = mhc_compile.transform(model, n=4, example_inputs=(X,), modes=("train",))
    twin.blocks[0].up = Adapter(twin.blocks[0].up)
    plain = copy.deepcopy(model)
    plain.blocks[0].up = Adapter(plain.blocks[0].up)
    plain.blocks[0].up.load_state_dict(twin.blocks[0].up.state_dict())
    torch.testing.assert_close(twin(X), plain(X))
    twin(X).sum().backward()
    assert twin.blocks[0].up.extra.weight.grad.abs().sum() > 0


class Doubling(nn.Linear):
    """Has what a linear layer has, and computes something else."""

    def forward(self, x):
        return 2 * super().forward(x)


def test_a_layer_put_in_place_of_one_with_the_same_parameters_is_traced():
    model = Tower()
    twin = mhc_compile.transform(model, n=4, example_inputs=(X,), modes=("train",))
    plain = copy.deepcopy(model)
    torch.testing.assert_close(twin(X), plain(X))
    for tower in (twin, plain):
        tower.blocks[0].up, before = Doubling(WIDTH, 2 * WIDTH), tower.blocks[0].up
        tower.blocks[0].up.load_state_dict(before.state_dict())
    torch.testing.assert_close(twin(X), plain(X))
