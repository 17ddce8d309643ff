"""Names of what Dynamo made inputs: tied weights, and tensors that stand for parameters."""

from __future__ import annotations

import copy
import warnings
from typing import Any

import pytest
import torch
from torch import nn

import mhc_compile
from mhc_compile.errors import LooseWeightsWarning
from tests.dynamo.breaking import LOOP, Loop, made
from tests.dynamo.towers import distance, inputs, randomise, tower
from tests.tables import also
from tests.toy_models import WIDTH


class TwoLayers(nn.Module):
    """A residual block whose first weight may be another block's."""

    def __init__(self) -> None:
        super().__init__()
        self.first, self.second = nn.Linear(WIDTH, WIDTH), nn.Linear(WIDTH, WIDTH)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        return x + self.second(self.first(x).relu())


def tied(everything: bool, owners: tuple[int, ...] = (1, 2)) -> Loop:
    """A loop with a break; blocks share their first weight, or all weights but not the biases."""
    torch.manual_seed(0)
    model = Loop().double()
    model.blocks = nn.ModuleList(TwoLayers() for _ in range(3)).double()
    source = model.blocks[owners[0] - 1]
    for i in owners:
        model.blocks[i].first.weight = source.first.weight
        if everything:
            model.blocks[i].second.weight = source.second.weight
    return model


@pytest.mark.parametrize("attached", [True, *also(False)])
@pytest.mark.parametrize("everything", [True, *also(False)])
@pytest.mark.parametrize("owners", [(1, 2), (2,)])
def test_blocks_with_tied_weights_keep_apart_behind_a_break(
    attached: bool, everything: bool, owners: tuple[int, ...]
) -> None:
    model, x = tied(everything, owners), inputs()
    backend = mhc_compile.backend(inner="eager")
    compiled = torch.compile(model, backend=backend)
    if attached:
        backend.attach(model, (x,))
    else:
        compiled(x)
    assert list(model.hyper_connections) == LOOP
    randomise(model)
    expected = x
    for key, block in zip(LOOP, model.blocks, strict=True):
        alone = mhc_compile.transform(block, example_inputs=(x,), modes=("train",))
        (only,) = alone.hyper_connections
        alone.hyper_connections[only].load_state_dict(model.hyper_connections[key].state_dict())
        expected = alone(expected)
    for _ in range(2):
        assert distance(compiled(x), expected.detach()) <= 1e-10
    assert list(model.hyper_connections) == LOOP
    compiled(x).square().sum().backward()
    assert all(p.grad is not None for p in model.hyper_connections.parameters()), "made, and never used"


def test_without_a_break_tied_weights_are_named_as_by_transform() -> None:
    model = nn.Sequential(TwoLayers(), TwoLayers()).double()
    model[1].first.weight = model[0].first.weight
    transformed = mhc_compile.transform(copy.deepcopy(model), example_inputs=(inputs(),), modes=("train",))
    torch.compile(model, backend=mhc_compile.backend(inner="eager"))(inputs())
    assert list(model.hyper_connections) == list(transformed.hyper_connections)


@pytest.mark.parametrize("warm", [True, False])
@pytest.mark.parametrize("kind", [nn.Parameter, torch.Tensor])
def test_functional_call_takes_plain_tensors(kind: Any, warm: bool) -> None:
    model, x = tower(), inputs()
    backend = mhc_compile.backend(inner="eager")
    backend.attach(model, (x,))
    randomise(model)
    compiled = torch.compile(model, backend=backend)
    if warm:
        compiled(x)
    others = {n: torch.randn_like(p) * 0.3 for n, p in model.named_parameters()}
    given = {f"_orig_mod.{n}": nn.Parameter(v) if kind is nn.Parameter else v for n, v in others.items()}
    got = torch.func.functional_call(compiled, given, (x,))
    transformed = mhc_compile.transform(tower(), example_inputs=(x,), modes=("train",))
    transformed.load_state_dict(others, strict=False)
    assert distance(got, transformed(x)) <= 1e-10


def test_other_weights_of_the_same_names_are_not_planned_again() -> None:
    model, x = tower(), inputs()
    backend = mhc_compile.backend(inner="eager")
    compiled = torch.compile(model, backend=backend)
    compiled(x)
    with torch.no_grad():
        for _ in range(2):
            weights = {f"_orig_mod.{n}": nn.Parameter(p.clone()) for n, p in model.named_parameters()}
            torch.func.functional_call(compiled, weights, (x,))
    assert len(backend.records) <= 2, "one with gradients, one without"


def test_weights_that_come_as_arguments_are_warned_of() -> None:
    model, x = tower(), inputs()
    weights = dict(model.named_parameters())

    @torch.compile(backend=mhc_compile.backend(inner="eager"))
    def call(weights: dict[str, torch.Tensor], x: torch.Tensor) -> torch.Tensor:
        return torch.func.functional_call(model, weights, (x,))

    with pytest.warns(LooseWeightsWarning, match=r"functional_call\(compiled"):
        call({n: p.detach().clone() for n, p in weights.items()}, x)
    with warnings.catch_warnings():
        warnings.simplefilter("error", LooseWeightsWarning)
        torch.compile(made(Loop), backend=mhc_compile.backend(inner="eager"))(x)
