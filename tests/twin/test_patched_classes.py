"""Methods that are replaced on classes, as libraries with faster kernels do, also through `type(module)`."""

from __future__ import annotations

import functools
from collections.abc import Iterator
from unittest import mock

import pytest
import torch
from torch import Tensor, nn
from torch.testing import assert_close

from tests.moved import Net, X, moved, programs
from tests.tables import also


class Mixer(nn.Linear):
    def forward(self, x: Tensor) -> Tensor:
        return self.act(super().forward(x)) * self.gain

    def act(self, x: Tensor) -> Tensor:
        return torch.relu(x)

    @property
    def gain(self) -> float:
        return 1.0

    @staticmethod
    def nothing(x: Tensor) -> Tensor:
        return x


class Block(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.mix = Mixer(8, 8)

    def forward(self, x: Tensor) -> Tensor:
        return x + self.mix.nothing(self.mix(x))


class Mixed(Net):
    block = Block

    def forward(self, x: Tensor) -> Tensor:
        return self.scaled(super().forward(x))

    def scaled(self, x: Tensor) -> Tensor:
        return x


@pytest.fixture(autouse=True)
def _classes_as_before() -> Iterator[None]:
    """A test that fails must not leave a changed class to the next."""
    before = [(kind, dict(vars(kind))) for kind in (Mixer, Block, Mixed)]
    yield
    for kind, namespace in before:
        for name in {*vars(kind), *namespace} - {"__dict__", "__weakref__", "__doc__"}:
            if name not in namespace:
                delattr(kind, name)
            elif vars(kind)[name] is not namespace[name]:
                setattr(kind, name, namespace[name])


REPLACED = {
    "forward": lambda self, x: 0 * x,
    "act": lambda self, x: 0 * x,
    "gain": property(lambda self: 0.0),
    "nothing": staticmethod(lambda x: 0 * x),
}


@pytest.mark.parametrize(
    ("name", "through"),
    [("forward", "module"), ("act", "class"), ("gain", "module"),
     *also(("forward", "class"), ("act", "module"), ("gain", "class"), ("nothing", "class"), ("nothing", "module"))],
)  # fmt: skip
def test_what_replaces_a_method_of_a_class_runs_until_it_is_put_back(name, through):
    t = moved(Mixed())
    kind, before = Mixer if through == "class" else type(t.blocks[0].mix), t(X)
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(kind, name, REPLACED[name])
        without = t(X)
        patch.setattr(Mixer, name, REPLACED[name])
        assert_close(t(X), without)
    assert not torch.allclose(without, before)
    assert_close(t(X), before)
    assert programs(t) <= 3


@pytest.mark.parametrize("name", ["forward", "scaled"])
def test_methods_of_the_model_itself(name):
    t = moved(Mixed())
    before, old = t(X), getattr(Mixed, name)
    with mock.patch.object(type(t), name, lambda self, x: 3 * old(self, x)):
        assert_close(t(X), 3 * before)
    assert_close(t(X), before)
    assert getattr(Mixed, name) is old


def test_a_forward_around_that_of_a_class_may_be_put_around_twice_and_taken_away():
    t = moved(Mixed())
    kind, before = type(t.blocks[0].mix), t(X)
    first = kind.forward

    @functools.wraps(first)  # which copies all attributes of a function, too
    def doubled(self: nn.Module, x: Tensor) -> Tensor:
        return 2 * first(self, x)

    kind.forward = doubled
    twice, second = t(X), kind.forward
    kind.forward = lambda self, x: 0.5 * second(self, x)
    assert_close(t(X), before)
    kind.forward = second
    assert_close(t(X), twice)
    kind.forward = first
    assert_close(t(X), before)
    assert Mixer.forward.__qualname__ == "Mixer.forward"


def test_calls_that_go_through_dynamo_run_what_replaces_a_method():
    class Counting(Mixed):
        calls = 0

        def forward(self, x: Tensor) -> Tensor:
            self.calls += 1
            return super().forward(x)

    t = moved(Counting())
    before = t(X)
    with mock.patch.object(Mixer, "act", lambda self, x: 0 * x):
        assert not torch.allclose(t(X), before)
    with mock.patch.object(Counting, "forward", lambda self, x: 3 * Mixed.forward(self, x)):
        assert_close(t(X), 3 * before)
    assert_close(t(X), before)
    assert (t.calls, programs(t)) == (3, 0)


def test_names_and_what_python_keeps_in_a_class_stay_with_the_class_made_on_the_fly():
    t = moved(Mixed())
    type(t.blocks[0].mix).__name__ = "Other"
    assert Mixer.__name__ == "Mixer"
