"""Which parameters a call takes: those of the weights it is made with."""

from __future__ import annotations

import gc
from collections.abc import Sequence
from typing import Any

import pytest
from torch import nn

from mhc_compile.instances import Instances


class Weight:
    """Anything that can be referred to weakly."""


def learnt_names() -> tuple[list[Sequence[Any]], Any]:
    asked: list[Sequence[Any]] = []

    def learn(inputs: Sequence[Any]) -> list[tuple[dict[str, Any], str]]:
        asked.append(inputs)
        return [({"phi": f"of call {len(asked)}"}, "phi")]

    return asked, learn


def test_each_combination_of_weights_is_learnt_once() -> None:
    asked, learn = learnt_names()
    instances = Instances([0, 2], learn)
    first, second, shared = Weight(), Weight(), Weight()
    assert instances.values([first, "x", shared]) == ["of call 1"]
    assert instances.values([second, "x", shared]) == ["of call 2"]
    assert instances.values([first, "y", shared]) == ["of call 1"]
    assert len(asked) == 2


def test_without_weights_there_is_one() -> None:
    asked, learn = learnt_names()
    instances = Instances([], learn)
    assert instances.values([1]) == instances.values([2]) == ["of call 1"] and len(asked) == 1


def test_an_identity_that_is_used_again_is_not_taken_for_the_old_one() -> None:
    asked, learn = learnt_names()
    instances = Instances([0], learn)
    weight = Weight()
    instances.values([weight])
    del weight
    gc.collect()
    again = Weight()  # CPython hands the same address out again
    instances.values([again])
    assert len(asked) == 2


def test_a_replaced_parameter_is_seen() -> None:
    module = nn.Linear(2, 2)
    instances = Instances([0], lambda inputs: [(module._parameters, "weight")])
    weight = Weight()
    before = instances.values([weight])[0]
    module.weight = nn.Parameter(before.detach().clone())
    assert instances.values([weight])[0] is module.weight is not before


def test_what_learning_raises_is_raised() -> None:
    def learn(inputs: Sequence[Any]) -> Any:
        raise KeyError("unknown")

    with pytest.raises(KeyError):
        Instances([], learn).values([])
