"""Classes that do something around their forward, or keep account of subclasses, as that of the model and of a part."""

from __future__ import annotations

import abc
from typing import ClassVar

import pytest
import torch
from torch import nn

import mhc_compile
from tests.toy_models import Block
from tests.twin.towers import X


class Doubled(nn.Module):
    """Does something around its forward, and does not take every keyword there."""

    def __init__(self):
        super().__init__()
        self.block = Block()

    def __call__(self, x):
        return 2 * super().__call__(x)

    def forward(self, x):
        return self.block(x)


@pytest.mark.parametrize("make", [Doubled, lambda: nn.Sequential(Doubled(), Doubled())], ids=["model", "part"])
def test_what_a_class_does_around_its_forward_is_done_once(make):
    model = make()
    torch.testing.assert_close(mhc_compile.transform(model, n=4, example_inputs=(X,), modes=("train",))(X), model(X))


class Registering(type):
    known: ClassVar[list[str]] = []

    def __init__(cls, name, bases, namespace, **options):
        super().__init__(name, bases, namespace)
        Registering.known.append(name)


class Registered(nn.Module, metaclass=Registering):
    """The metaclass keeps account of subclasses, and they must say what they are."""

    def __init_subclass__(cls, kind):
        cls.kind = kind

    def __init__(self):
        super().__init__()
        self.block = Block()

    def forward(self, x):
        return self.block(x)


class Kind(Registered, kind="a"):
    pass


def test_a_class_that_is_particular_about_subclasses_may_be_that_of_the_model_or_a_part():
    for model in (Kind(), nn.Sequential(Kind())):
        twin = mhc_compile.transform(model, n=4, example_inputs=(X,), modes=("train",))
        torch.testing.assert_close(twin(X), model(X))
        assert isinstance(twin, type(model))
    assert Registering.known == ["Registered", "Kind"]


class Listed(Block):
    """Keeps a list of subclasses, from which others make models."""

    known: ClassVar[list[type]] = []

    def __init_subclass__(cls):
        Listed.known.append(cls)


class InList(Listed):
    pass


def test_what_is_made_from_a_class_made_on_the_fly_is_a_plain_module():
    for model in (InList(), nn.Sequential(InList())):
        mhc_compile.transform(model, n=4, example_inputs=(X,), modes=("train",))
    assert len(Listed.known) > 1
    for kind in Listed.known:
        assert type(kind()) is InList and [name for name, _ in kind().named_children()] == [*InList()._modules]


class Abstract(nn.Module, abc.ABC):
    def __init__(self):
        super().__init__()
        self.block = Block()

    def forward(self, x):
        return self.block(x)


def test_abstract_base_classes_stay_what_they_are():
    model = Abstract()
    twin = mhc_compile.transform(model, n=4, example_inputs=(X,), modes=("train",))
    assert isinstance(twin, Abstract) and not isinstance(model, type(twin))
