"""Values that are equal and not the same, as code that was traced takes them."""

from __future__ import annotations

import pytest
import torch
from torch import Tensor, nn
from torch.testing import assert_close

from tests.model.towers import programs
from tests.moved import Net, X, moved


class Gained(Net):
    """A gain of any kind, which the code looks at as Python does."""

    def __init__(self, gain: object) -> None:
        super().__init__()
        self.gain = gain

    def forward(self, x: Tensor) -> Tensor:
        gain = self.gain[0] if isinstance(self.gain, (tuple, list)) else self.gain
        if gain is True:
            return super().forward(x)
        if isinstance(gain, int):
            return super().forward(x) * (2 + gain)
        return super().forward(x) * 5 + (1 / torch.full((), gain) if gain == 0 else gain)


@pytest.mark.parametrize(("before", "after"), [
    (1, True), (1.0, 1), (0.0, -0.0), ((1,), (True,)), (2.0, torch.tensor(2.0, requires_grad=True)),
])  # fmt: skip
def test_a_value_that_is_equal_and_of_another_kind_is_seen(before, after):
    t = moved(Gained(before))
    first = t(X)
    t.gain = after
    assert_close(t(X), moved_like(t, after)(X))
    t.gain = before
    assert torch.equal(t(X), first)


def moved_like(t: nn.Module, gain: object) -> nn.Module:
    """A fresh one with the parameters of another."""
    fresh = moved(Gained(gain))
    fresh.load_state_dict(t.state_dict())
    return fresh


@pytest.mark.parametrize(("value", "same"), [(float("nan"), float("nan")), ((1, 2.5), (1, 2.5))])
def test_an_equal_value_of_the_same_kind_needs_no_other_trace(value, same):
    t = moved(Gained(value))
    t(X)
    known = programs(t)
    t.gain = type(value)(same)
    t(X)
    assert programs(t) == known
