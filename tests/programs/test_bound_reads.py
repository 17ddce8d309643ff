"""Tensors with two names: a program that reads them under one of them serves while they are one."""

from __future__ import annotations

import copy

import pytest
import torch
from torch import Tensor, nn
from torch.testing import assert_close

from mhc_compile.programs.bound_reads import bind
from tests.moved import Net, X, net, programs
from tests.toy_models import WIDTH


class Tied(Net):
    """One buffer under three names, one attribute under two, and one weight in two layers."""

    def __init__(self) -> None:
        super().__init__()
        ones = torch.ones(())
        self.register_buffer("first", ones)
        self.register_buffer("second", ones)
        self.blocks[0].register_buffer("third", ones)
        self.one = self.other = torch.ones(())
        self.out = nn.Linear(WIDTH, WIDTH, bias=False)
        self.out.weight = self.stem.weight

    def forward(self, x: Tensor) -> Tensor:
        x = self.first * self.second * self.blocks[0].third * self.one * self.other * x
        return super().forward(self.out(x))


def set_third(t: nn.Module) -> None:
    t.blocks[0].third = torch.tensor(2.0)


def set_weight(t: nn.Module) -> None:
    t.out.weight = nn.Parameter(2 * t.stem.weight.detach())


CHANGES = {
    "first": lambda t: setattr(t, "first", torch.tensor(2.0)),
    "second": lambda t: setattr(t, "second", torch.tensor(2.0)),
    "buffer of a part": set_third,
    "attribute": lambda t: setattr(t, "one", torch.tensor(2.0)),
    "other attribute": lambda t: setattr(t, "other", torch.tensor(2.0)),
    "parameter": set_weight,
}


@pytest.mark.parametrize("change", CHANGES)
def test_names_of_one_tensor_may_become_those_of_two(change):
    t = net(Tied)
    t(X)
    expected = t(2 * X)
    CHANGES[change](t)
    assert "two names" in str(bind(t._mhc.programs[0].reads, t))
    assert_close(t(X), expected)
    assert programs(t) == 2


def test_a_copy_and_a_tensor_that_is_replaced_under_all_names_lead_to_no_trace():
    t = copy.deepcopy(net(Tied))
    expected = t(2 * X)
    t.one = t.other = torch.tensor(2**0.5)
    t.out.weight = t.stem.weight = nn.Parameter(t.stem.weight.detach().clone())
    assert_close(t(X), expected)
    assert programs(t) == 1
