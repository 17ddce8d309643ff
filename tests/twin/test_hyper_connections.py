"""Hyper-connections among the children of a model that goes over its children."""

from __future__ import annotations

import copy

import pytest
import torch
from torch import nn

import mhc_compile
from mhc_compile.errors import OwnChildrenError
from tests.dynamo.towers import distance, tower
from tests.toy_models import WIDTH


@pytest.fixture(autouse=True)
def _fresh_dynamo() -> None:
    torch.compiler.reset()


def eager() -> mhc_compile.Backend:
    return mhc_compile.backend(inner="eager")


def test_a_compiled_sequential_computes_what_it_did() -> None:
    model, x = nn.Sequential(*tower().blocks), torch.randn(2, 5, WIDTH, dtype=torch.float64)
    assert type(model) is nn.Sequential
    wanted = model(x)
    for attached in (False, True):
        again, backend = copy.deepcopy(model), eager()
        if attached:
            backend.attach(again, (x,))
        compiled = torch.compile(again, backend=backend)
        assert distance(compiled(x), wanted) <= 1e-10
        assert distance(compiled(x), wanted) <= 1e-10
        assert len(again.hyper_connections) == 3
        assert distance(again(x), wanted) <= 1e-10


def test_a_forward_that_calls_all_its_children_is_told_what_to_do() -> None:
    class Walk(nn.Sequential):
        def forward(self, x: torch.Tensor) -> torch.Tensor:
            for layer in self:
                x = layer(x)
            return x

    model, x = Walk(*tower().blocks), torch.randn(2, 5, WIDTH, dtype=torch.float64)
    eager().attach(model, (x,))
    with pytest.raises(OwnChildrenError, match=r"write mhc_compile\.transform"):
        model(x)
