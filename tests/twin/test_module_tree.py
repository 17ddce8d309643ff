"""What modules hold of other modules before `transform`: methods, partial functions, a `forward` of their own."""

from __future__ import annotations

import functools
import types

import torch
import torch.nn.functional as F
from torch import Tensor, nn
from torch.testing import assert_close

import mhc_compile
from tests.moved import Net, X, moved


def dropping(self: nn.Module, x: Tensor) -> Tensor:
    return x + F.dropout(self.down(torch.relu(self.up(self.norm(x)))), 0.5, self.training)


def test_a_forward_set_on_blocks_before_sees_the_mode_of_its_own_model():
    model = Net()  # in train mode, and stays so
    for block in model.blocks:
        block.forward = types.MethodType(dropping, block)
    t = moved(model).eval()
    plain = mhc_compile.revert(t).eval()
    assert torch.equal(t(X), t(X)) and torch.equal(plain(X), plain(X))
    assert not torch.equal(model(X), model(X))


def call(module: nn.Module, x: Tensor) -> Tensor:
    return module(x)


class Keeping(Net):
    """Calls its blocks through what it keeps in attributes."""

    def __init__(self) -> None:
        super().__init__()
        self.first, self.second = self.blocks[0].forward, functools.partial(call, self.blocks[1])

    def forward(self, x: Tensor) -> Tensor:
        return self.head(self.second(self.first(self.stem(x))))


def test_methods_and_partial_functions_of_blocks_are_those_of_the_twin():
    model = Keeping()
    t = moved(model)
    assert len(t.mhc_plan.sites) == 2
    before = t(X)
    assert_close(mhc_compile.revert(t)(X), model(X))
    assert not torch.allclose(before, model(X), atol=1e-3)
    t.blocks[0].drop.p = t.blocks[1].drop.p = 1.0
    assert not torch.allclose(t(X), before)
    assert model.blocks[0].drop.p == 0.0


def test_a_closure_around_a_forward_with_defaults_is_traced():
    model = Net()
    for block in model.blocks:
        inner = block.forward
        block.forward = lambda x, inner=inner: 2 * inner(x)
    t = moved(model)
    assert_close(mhc_compile.revert(t)(X), model(X))
    assert not torch.allclose(t(X), model(X), atol=1e-3)
