"""What is in an attribute is another value if code can tell it from what it was, and only then."""

from __future__ import annotations

import math
from typing import Any

import pytest
import torch
from torch import Tensor
from torch.testing import assert_close

from tests.moved import Net, X, net, programs


class Asks(Net):
    """Computes something else for values that are equal to `==`."""

    def __init__(self, value: Any = None) -> None:
        super().__init__()
        self.value = value

    def forward(self, x: Tensor) -> Tensor:
        return super().forward(x) * told(self.value)


def told(value: Any) -> Any:
    if isinstance(value, Tensor):
        return 2 * value
    if isinstance(value, tuple):
        return 1.0 if type(value[0]) is int else 5.0
    if type(value) is float and value == 0.0:
        return math.copysign(3.0, value)
    return {bool: 2.0, int: 3.0, float: 4.0}[type(value)]


class AsksInt(Asks):
    def __init__(self) -> None:
        super().__init__(1)


class AsksZero(Asks):
    def __init__(self) -> None:
        super().__init__(0.0)


class AsksFloat(Asks):
    def __init__(self) -> None:
        super().__init__(1.0)


class AsksTuple(Asks):
    def __init__(self) -> None:
        super().__init__((1, 2))


class AsksNan(Asks):
    def __init__(self) -> None:
        super().__init__(float("nan"))


EQUAL = {
    "true for one": (AsksInt, True),
    "a float for an int": (AsksInt, 1.0),
    "an int for a float": (AsksZero, 0),
    "false for zero": (AsksZero, False),
    "another sign of zero": (AsksZero, -0.0),
    "in a tuple": (AsksTuple, (True, 2)),
    "a tensor": (AsksFloat, torch.tensor(1.0)),
    "a tensor that requires gradients": (AsksFloat, torch.tensor(1.0, requires_grad=True)),
}


@pytest.mark.parametrize("case", EQUAL)
def test_a_value_that_is_equal_but_another_one_is_seen(case):
    kind, value = EQUAL[case]
    t = net(kind)
    before, was = t(X) / told(t.value), t.value
    t.value = value
    assert_close(t(X), before * told(value))
    t.value = was
    assert_close(t(X), before * told(was))
    assert programs(t) == 2


@pytest.mark.parametrize(("kind", "make"), [(AsksNan, lambda: float("nan")), (AsksTuple, lambda: tuple([1, 2]))])
def test_another_object_of_the_same_value_leads_to_no_trace(kind, make):
    t = net(kind)
    before = t(X)
    for _ in range(2):
        t.value = make()
        assert_close(t(X), before)
    assert programs(t) == 1
