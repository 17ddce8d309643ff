"""Weights of all layers stacked in one parameter: each layer has the key of its part."""

from __future__ import annotations

import pytest
import torch
from torch import nn

from tests.passes.graphs import plan_of
from tests.passes.layers import Net, tokens

X = tokens()

PARTS = {
    "an index": lambda m, x, i: x @ m.w[i],
    "an index of several": lambda m, x, i: x @ m.w[i, :, :],
    "from the end": lambda m, x, i: x @ m.w[i - 4],
    "select": lambda m, x, i: x @ m.w.select(0, i),
    "unbind": lambda m, x, i: x @ m.w.unbind(0)[i],
    "chunk": lambda m, x, i: x @ m.w.chunk(4)[i].squeeze(0),
    "transposed": lambda m, x, i: nn.functional.linear(x, m.w[i].t()),
    "of a view": lambda m, x, i: x @ m.w.view(2, 2, 8, 8).flatten(0, 1)[i],
    "of a cast": lambda m, x, i: x @ m.w.double()[i],
    "in two steps": lambda m, x, i: torch.relu(x @ m.v[i]) @ m.w[i],
}


def keys(name: str, layers: tuple[int, ...]) -> list[str]:
    """Of a model of these layers, each with a part of the same parameter."""

    def body(m, x):
        x = m.stem(x)
        for i in layers:
            x = x + torch.tanh(PARTS[name](m, x, i))
        return x

    stacked = {key: nn.Parameter(torch.randn(4, 8, 8)) for key in "vw"}
    return [site.key for site in plan_of(Net(body, stem=nn.Linear(8, 8), **stacked).double(), X).sites]


@pytest.mark.parametrize("name", PARTS)
def test_a_layer_that_is_left_out_leaves_the_keys_of_others(name):
    assert keys(name, (0, 1, 2, 3)) == ["w.0", "w.1", "w.2", "w.3"]
    assert keys(name, (3, 0, 2)) == ["w.3", "w.0", "w.2"]


SLICES = {
    "a slice": (lambda m, x, i: x @ m.w[8 * i : 8 * i + 8], "w.{}-{}"),
    "narrow": (lambda m, x, i: x @ m.w.narrow(0, 8 * i, 8), "w.{}-{}"),
    "a slice of columns": (lambda m, x, i: x @ m.w.t()[:, 8 * i : 8 * i + 8], "w.{}-{}@1"),
    "from the end": (lambda m, x, i: x @ m.w[8 * i - 32 : 8 * i + 8], "w.{}-{}"),
}


@pytest.mark.parametrize("name", SLICES)
@pytest.mark.parametrize("layers", [(0, 1, 2, 3), (3, 0, 2)])
def test_a_layer_that_lies_between_others_has_the_key_of_its_slice(name, layers):
    take, key = SLICES[name]

    def body(m, x):
        for i in layers:
            x = x + torch.tanh(take(m, x, i))
        return x

    found = plan_of(Net(body, w=nn.Parameter(torch.randn(32, 8))).double(), X).sites
    assert [site.key for site in found] == [key.format(8 * i, 8 * i + 8) for i in layers]


def test_layers_along_the_second_axis_have_keys_of_their_own():
    def body(m, x):
        x = x + torch.tanh(x @ m.w[:, 2])
        return x + torch.tanh(x @ m.w.select(1, 0))

    found = plan_of(Net(body, w=nn.Parameter(torch.randn(8, 4, 8))).double(), X).sites
    assert [site.key for site in found] == ["w.2@1", "w.0@1"]


def test_an_index_that_is_computed_names_no_part():
    def body(m, x):
        for i in range(2):
            x = x + torch.tanh(x @ m.w.index_select(0, m.order[i : i + 1])[0])
        return x

    model = Net(body, w=nn.Parameter(torch.randn(4, 8, 8)), order=nn.Buffer(torch.tensor([2, 0]))).double()
    assert [site.key for site in plan_of(model, X).sites] == ["w", "w#2"]
