"""Models whose blocks change after they were compiled: the code stays, and each block takes its own parameters."""

from __future__ import annotations

import copy
from collections.abc import Callable
from typing import Any

import pytest
import torch
from torch import nn

import mhc_compile
from tests.dynamo.breaking import LOOP, Loop, made
from tests.dynamo.test_state_names import TwoLayers
from tests.dynamo.towers import distance, inputs, randomise

Change = Callable[[Loop], None]


def tie_first(model: Loop) -> None:
    model.blocks[2].first.weight = model.blocks[1].first.weight


def tie_both(model: Loop) -> None:
    tie_first(model)
    model.blocks[2].second.weight = model.blocks[1].second.weight


def untie(model: Loop) -> None:
    model.blocks[2].first.weight = nn.Parameter(torch.randn_like(model.blocks[2].first.weight))


def swap(model: Loop) -> None:
    model.blocks[1], model.blocks[2] = model.blocks[2], model.blocks[1]


def one_by_one(model: Loop, alone: nn.Module, x: torch.Tensor) -> torch.Tensor:
    """Each block alone, with the parameters that are kept under its name; `alone` is a transformed block."""
    (only,) = alone.hyper_connections
    for key, block in zip(LOOP, model.blocks, strict=True):
        for name, layer in block.named_children():
            alone.get_submodule(name).load_state_dict(layer.state_dict())
        alone.hyper_connections[only].load_state_dict(model.hyper_connections[key].state_dict())
        x = alone(x).detach()
    return x


@pytest.mark.parametrize("changes", [(tie_first, tie_both, untie), (swap, tie_first)])
def test_blocks_behind_a_break_keep_to_their_own_parameters(changes: tuple[Change, ...]) -> None:
    """Dynamo's guards notice none of it: the graph of one block serves all of them."""
    torch.compiler.reset()
    model, x, codes = made(Loop), inputs(), []
    model.blocks = nn.ModuleList(TwoLayers() for _ in range(3)).double()

    def inner(gm: Any, example_inputs: Any) -> Any:
        codes.append(gm)
        return gm

    compiled = torch.compile(model, backend=mhc_compile.backend(inner=inner))
    compiled(x)
    randomise(model)
    compiled(x)
    known, alone = len(codes), copy.deepcopy(model.blocks[0])
    seen = [(copy.deepcopy(model), compiled(x))]
    for change in changes:
        change(model)
        seen.append((copy.deepcopy(model), compiled(x)))
    assert len(codes) == known, "compiled anew, so that nothing had to be found again"
    alone = mhc_compile.transform(alone, example_inputs=(x,))
    for then, got in seen:
        assert distance(got, one_by_one(then, alone, x)) <= 1e-10
