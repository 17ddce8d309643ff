"""Weights that torchao quantizes, as `docs/recipes/torchao.md` has it."""

from __future__ import annotations

import copy

import pytest
import torch
from torch.testing import assert_close

import mhc_compile
from tests.moved import Net, X, move
from tests.recipes.documents import run_recipe

torchao = pytest.importorskip("torchao")
pytestmark = pytest.mark.exhaustive  # `make exhaustive` installs it


def test_weights_are_quantized_and_hyper_connections_are_not():
    torch.manual_seed(0)
    plain = Net().eval()
    wanted = mhc_compile.transform(copy.deepcopy(plain), n=4, example_inputs=(X,))
    names = run_recipe("torchao", "Quantize a transformed model", plain=plain, x=X)
    assert type(names["model"].stem.weight) is not torch.nn.Parameter
    assert {p.dtype for p in names["model"].hyper_connections.parameters()} == {torch.float32}
    assert_close(names["y"], wanted(X), atol=0.05, rtol=0.05)
    assert_close(move(names["model"])(X), move(wanted)(X), atol=0.1, rtol=0.1)


def test_a_quantized_model_is_transformed():
    torch.manual_seed(0)
    plain = Net().eval()
    wanted = plain(X)
    names = run_recipe("torchao", "Transform a quantized model", plain=plain, x=X)
    assert len(names["model"].mhc_plan.sites) == 2
    assert_close(names["y"], wanted, atol=0.05, rtol=0.05)
    assert (move(names["model"])(X) - names["y"]).abs().max() > 1e-3
