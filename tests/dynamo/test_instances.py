"""Which parameters a call takes: those of the weights it is made with."""

from __future__ import annotations

import gc
from collections.abc import Sequence
from typing import Any

import pytest
from torch import nn

from mhc_compile.dynamo.instances import Instances, Served


class Weight:
    """Anything that can be referred to weakly."""


def last(*inputs: Any) -> Any:
    """The parameter behind the inputs."""
    return inputs[-1]


def learnt_names() -> tuple[list[int], Any]:
    """How many inputs each call had that was asked about, not the inputs themselves, which are to die; and `learn`."""
    asked: list[int] = []

    def learn(inputs: Sequence[Any]) -> Served:
        asked.append(len(inputs))
        return Served(last, [({"phi": f"of call {len(asked)}"}, "phi")])

    return asked, learn


def test_each_combination_of_weights_is_learnt_once() -> None:
    asked, learn = learnt_names()
    instances = Instances([0, 2], learn).function()
    first, second, shared = Weight(), Weight(), Weight()
    assert instances(first, "x", shared) == "of call 1"
    assert instances(second, "x", shared) == "of call 2"
    assert instances(first, "y", shared) == "of call 1"
    assert len(asked) == 2


def test_without_weights_there_is_one() -> None:
    asked, learn = learnt_names()
    instances = Instances([], learn).function()
    assert instances(1) == instances(2) == "of call 1" and len(asked) == 1


def test_an_identity_that_is_used_again_is_not_taken_for_the_old_one() -> None:
    asked, learn = learnt_names()
    instances = Instances([0], learn).function()
    weight = Weight()
    address = id(weight)
    instances(weight)
    del weight
    gc.collect()
    others = [Weight() for _ in range(1000)]
    (again,) = (other for other in others if id(other) == address)  # CPython hands the same address out again
    instances(again)
    assert len(asked) == 2


def test_a_replaced_parameter_is_seen() -> None:
    module = nn.Linear(2, 2)
    instances = Instances([0], lambda inputs: Served(last, [(module._parameters, "weight")])).function()
    weight = Weight()
    before = instances(weight)
    module.weight = nn.Parameter(before.detach().clone())
    assert instances(weight) is module.weight is not before


def test_what_learning_raises_is_raised() -> None:
    def learn(inputs: Sequence[Any]) -> Any:
        raise KeyError("unknown")

    with pytest.raises(KeyError):
        Instances([], learn).function()()


def test_modules_that_share_the_weight_looked_at_are_told_apart_by_further_ones() -> None:
    shared, first, second = Weight(), Weight(), Weight()

    def learn(inputs: Sequence[Any]) -> Served:
        return Served(last, [({"phi": id(inputs[1])}, "phi")], positions=(0, 1))

    call = Instances([0], learn).function()
    for _ in range(2):
        assert call(shared, first) == id(first)
        assert call(shared, second) == id(second)


def test_slots_that_are_no_longer_the_models_are_learnt_anew() -> None:
    asked, owners = [], ["first"]

    def learn(inputs: Sequence[Any]) -> Served:
        asked.append(inputs)
        owner = owners[-1]
        return Served(last, [({"phi": len(asked)}, "phi")], current=lambda: owners[-1] == owner)

    call, weight = Instances([0], learn).function(), Weight()
    assert (call(weight), call(weight)) == (1, 1)
    owners.append("second")
    assert call(weight) == 2
