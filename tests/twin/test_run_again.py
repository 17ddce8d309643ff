"""Blocks that run more than once in a step: under activation checkpointing, or called twice."""

from __future__ import annotations

import copy
import pickle

import pytest
import torch
from torch import nn
from torch.distributed.algorithms._checkpoint.checkpoint_wrapper import apply_activation_checkpointing
from torch.utils._python_dispatch import TorchDispatchMode
from torch.utils.checkpoint import checkpoint

import mhc_compile
from tests.toy_models import Block
from tests.twin.towers import X, assert_same, gradients, transformed


class Twice(nn.Module):
    def __init__(self):
        super().__init__()
        self.block = Block()

    def forward(self, x):
        return self.block(self.block(x))


class Region(nn.Module):
    """A checkpointed function around two modules."""

    def __init__(self):
        super().__init__()
        self.first, self.second = Block(), Block()

    def forward(self, x):
        return checkpoint(lambda y: self.second(self.first(y)), x, use_reentrant=False)


def test_wrapping_blocks_for_activation_checkpointing_changes_nothing_but_memory():
    twin = transformed()
    expected, names = gradients(twin), list(twin.state_dict())
    runs = []
    twin.blocks[1].up.register_forward_hook(lambda *_: runs.append(1))
    apply_activation_checkpointing(twin, check_fn=lambda module: isinstance(module, Block))
    assert list(twin.state_dict()) == names
    assert_same(gradients(twin), expected)
    assert len(runs) == 2 and len(twin._mhc.programs) == 2  # once more in the backward, and nothing was traced again


@pytest.mark.parametrize("model", [Twice, Region])
def test_modules_used_twice_and_checkpointed_functions_keep_the_function(model):
    plain = model()
    twin = mhc_compile.transform(plain, n=4, example_inputs=(X,), modes=("train",))
    torch.testing.assert_close(twin(X), plain(X))
    found, expected = gradients(copy.deepcopy(twin)), gradients(plain)
    assert_same(found[: len(expected)], expected)  # those of new parameters stand behind them
    assert_same(found, gradients(pickle.loads(pickle.dumps(twin))))


class Norms(TorchDispatchMode):
    """Counts layer norms that are computed."""

    def __init__(self):
        super().__init__()
        self.runs = 0

    def __torch_dispatch__(self, func, types, args=(), kwargs=None):
        self.runs += func is torch.ops.aten.native_layer_norm.default
        return func(*args, **(kwargs or {}))


def test_checkpointed_functions_run_again_in_the_backward():
    twin = transformed(Region())
    loss = twin(X).sum()
    with Norms() as norms:
        loss.backward()
    assert norms.runs == 2
