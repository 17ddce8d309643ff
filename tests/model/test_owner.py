"""A transformed model is the model itself: class, attributes, parameters under their names, function, training."""

from __future__ import annotations

import inspect

import pytest
import torch
from torch import nn

from mhc_compile.twin.hyper_connections import HyperConnections
from tests.model.towers import X, close, programs, transformed
from tests.moved import move
from tests.toy_models import WIDTH, Block, Checkpointed, Tower


@pytest.fixture(scope="module")
def pair():
    model = Tower()
    return model, transformed(model, modes=("train", "eval"))


def test_class_and_attributes_are_those_of_the_model(pair):
    model, twin = pair
    assert isinstance(twin, Tower) and type(twin).__name__ == "Tower" and repr(twin).startswith("Tower(")
    assert (twin.family, twin.comment) == ("tower", "kept")
    assert inspect.signature(twin.forward) == inspect.signature(model.forward)


def test_parameters_and_buffers_are_shared_modules_are_not(pair):
    model, twin = pair
    assert twin.blocks[0].up.weight is model.blocks[0].up.weight and twin.scale is model.scale
    assert twin.blocks[0] is not model.blocks[0] and type(model.blocks[0]) is Block
    assert twin.head.weight is twin.stem.weight and twin.unused.weight is model.unused.weight


def test_original_is_untouched(pair):
    model, _ = pair
    fresh = Tower()
    assert type(model) is Tower and set(vars(model)) == set(vars(fresh))
    assert list(model.state_dict()) == list(fresh.state_dict())


def test_names_are_the_original_ones_and_hyper_connections(pair):
    model, twin = pair
    new = [k for k in twin.state_dict() if k not in model.state_dict()]
    assert set(model.state_dict()) <= set(twin.state_dict())
    assert new and all(k.startswith("hyper_connections.") for k in new)
    assert {k.partition(".")[0] for k, _ in twin.named_parameters()} >= {"hyper_connections", "blocks"}


def test_hyper_connections_are_a_mapping_by_site_key(pair):
    _, twin = pair
    connections = twin.hyper_connections
    keys = [s.key for s in twin.mhc_plan.sites]
    assert isinstance(connections, HyperConnections) and list(connections.keys()) == keys == list(connections)
    assert len(connections) == 3 and keys[0] in connections and "nothing" not in connections
    assert dict(connections.items())[keys[1]] is connections[keys[1]]
    assert connections[keys[0]].phi.shape[0] == 2 * WIDTH
    with pytest.raises(KeyError, match="nothing"):
        connections["nothing"]


def test_function_is_preserved_in_both_modes_and_other_sizes(pair):
    model, twin = pair
    before = programs(twin)
    for x in (X, torch.randn(5, 7, WIDTH)):
        for training in (True, False):
            model.train(training), twin.train(training)
            assert close(twin(x), model(x))
    assert programs(twin) == before == 2


def test_new_parameters_are_used():
    twin = transformed()
    before = twin(X)
    with torch.no_grad():
        for parameter in twin.hyper_connections.parameters():
            parameter.add_(torch.randn_like(parameter))
    assert not close(twin(X), before)


def test_training_reaches_old_and_new_parameters():
    twin = move(transformed())
    twin(X).square().mean().backward()
    reached = {name for name, p in twin.named_parameters() if p.grad is not None and p.grad.any()}
    assert {name for name, _ in twin.named_parameters()} - reached == {"unused.weight", "unused.bias"}


def test_the_class_makes_plain_models_with_the_arguments_of_the_original(pair):
    kind = type(pair[1])
    plain = kind(depth=2, width=WIDTH)
    assert type(plain) is Tower and len(plain.blocks) == 2 and plain(X).shape == X.shape
    assert inspect.signature(kind) == inspect.signature(Tower)


def test_a_slice_of_a_sequential_is_plain():
    twin = transformed(nn.Sequential(Block(), Block()))
    assert type(twin[:1]) is nn.Sequential and twin[:1](X).shape == X.shape


def test_checkpointed_region_trains_like_the_original():
    x = torch.randn(2, WIDTH)
    model = Checkpointed()
    twin = transformed(model, x)
    model(x).sum().backward()
    expected = model.inner.weight.grad.clone()
    model.zero_grad()
    twin(x).sum().backward()
    assert close(twin.inner.weight.grad, expected)
