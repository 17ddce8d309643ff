"""Calls past a compiled model: methods that call `self.forward`, parts, and the model that was not compiled."""

from __future__ import annotations

import copy
import warnings

import pytest
import torch
from torch import Tensor, nn
from torch.testing import assert_close

import mhc_compile
from mhc_compile.errors import StreamsCutWarning
from tests.moved import Net, X, move


class Own(Net):
    def loss(self, x: Tensor) -> Tensor:
        return self.forward(x).pow(2).mean()

    def features(self, x: Tensor) -> Tensor:
        x = self.stem(x)
        for block in self.blocks:
            x = block(x)
        return x


class Wrapped(nn.Module):
    """Its method calls the part that holds every site."""

    def __init__(self) -> None:
        super().__init__()
        self.net = Net()

    def forward(self, x: Tensor) -> Tensor:
        return self.net(x)

    def loss(self, x: Tensor) -> Tensor:
        return self.net(x).pow(2).mean()


def compiled(model: nn.Module) -> nn.Module:
    """The model, compiled in place, with new parameters that were moved."""
    backend = mhc_compile.backend(inner="eager")
    backend.attach(model, X)
    model.compile(backend=backend)
    return move(model)


@pytest.mark.parametrize("make", [Own, Wrapped])
def test_a_method_that_calls_forward_or_a_part_computes_what_compiled_code_does(make):
    model = compiled(make())
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        assert_close(model.loss(X), model(X).pow(2).mean())
    model.loss(X).backward()
    assert all(p.grad is not None for p in model.hyper_connections.parameters())


def test_the_model_that_was_not_compiled_computes_what_compiled_code_does():
    model, backend = Net(), mhc_compile.backend(inner="eager")
    backend.attach(model, X)
    result = torch.compile(model, backend=backend)
    move(model)
    assert_close(model(X), result(X))


def test_blocks_in_a_loop_are_cut_with_a_warning():
    model = compiled(Own())
    with pytest.warns(StreamsCutWarning, match=r"blocks\.0 is called past the compiled model"):
        model.features(X)


def test_a_copy_is_a_plain_module_of_the_same_class_until_it_is_compiled():
    model = compiled(Own())
    assert type(copy.deepcopy(model)) is Own
