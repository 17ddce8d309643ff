from __future__ import annotations

import pytest
import torch

import mhc_compile
from mhc_compile.errors import InvalidOptionError, NotAModuleError
from tests.toy_models import WIDTH, Tower


@pytest.fixture(scope="module")
def twin():
    return mhc_compile.transform(Tower(), n=2, example_inputs=(torch.randn(2, 3, WIDTH),))


def names(model, group):
    return {name for name, p in model.named_parameters() for q in group["params"] if p is q}


def test_every_parameter_is_in_exactly_one_group(twin):
    decay, rest = mhc_compile.parameter_groups(twin, weight_decay=0.2)
    assert (decay["weight_decay"], rest["weight_decay"]) == (0.2, 0.0)
    ids = [id(p) for group in (decay, rest) for p in group["params"]]
    assert sorted(ids) == sorted(id(p) for p in twin.parameters())


def test_only_matrices_decay(twin):
    decay, rest = mhc_compile.parameter_groups(twin)
    assert {"blocks.0.up.weight", "stem.weight"} <= names(twin, decay)
    assert {"blocks.0.up.bias", "blocks.0.norm.weight"} <= names(twin, rest)
    key = twin.mhc_plan.sites[0].key
    connection = twin.hyper_connections[key]
    assert any(connection.phi is p for p in decay["params"])
    assert all(any(q is p for p in rest["params"]) for q in (connection.alpha, connection.bias))


def test_static_matrices_of_hyper_connections_do_not_decay():
    twin = mhc_compile.transform(
        Tower(), n=2, connection="hc", example_inputs=(torch.randn(2, 3, WIDTH),), modes=("train",)
    )
    decaying = names(twin, mhc_compile.parameter_groups(twin)[0])
    new = {name for name, _ in twin.named_parameters() if name.startswith("hyper_connections.")}
    static = {name for name in new if name.rpartition(".")[2].startswith(("static_", "scale", "bias", "alpha"))}
    assert static and not static & decaying


def test_frozen_parameters_are_left_out():
    model = Tower()
    model.stem.requires_grad_(False)
    assert sum(len(g["params"]) for g in mhc_compile.parameter_groups(model)) == len(list(model.parameters())) - 2


def test_an_optimizer_takes_the_groups(twin):
    torch.optim.AdamW(mhc_compile.parameter_groups(twin), lr=1e-3).zero_grad()


@pytest.mark.parametrize("value", [-0.1, True, "0.1", None])
def test_weight_decay_out_of_its_domain(value):
    with pytest.raises(InvalidOptionError, match="write a number"):
        mhc_compile.parameter_groups(Tower(), weight_decay=value)


def test_groups_of_something_else_than_a_module():
    with pytest.raises(NotAModuleError, match="got a int"):
        mhc_compile.parameter_groups(3)
