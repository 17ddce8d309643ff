"""Methods that add up residual connections run with hyper-connections, however they are written and called."""

from __future__ import annotations

import asyncio
import functools
import warnings
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import pytest
import torch
from torch import Tensor, nn
from torch.testing import assert_close

import mhc_compile
from mhc_compile.errors import PlainBranchWarning
from tests.copies import copied
from tests.model.test_doors import Base
from tests.moved import X, moved


@dataclass(slots=True)
class Batch:
    x: Tensor


def logged(function: Callable[..., Any]) -> Callable[..., Any]:
    @functools.wraps(function)
    def inner(*args: Any, **kwargs: Any) -> Any:
        return function(*args, **kwargs)

    return inner


class Methods(Base):
    """Each method adds up what `forward` does, in lines of its own."""

    @torch.no_grad()
    def without_gradients(self, x: Tensor) -> Tensor:
        for layer in self.layers:
            x = x + layer(x).tanh()
        return x

    @logged
    def decorated(self, x: Tensor) -> Tensor:
        for layer in self.layers:
            x = x + layer(x).tanh()
        return x

    @logged
    def past(self, x: Tensor) -> Tensor:
        return Base.forward(self, x)

    def of_any_number(self, *xs: Tensor) -> Tensor:
        x = xs[0]
        for layer in self.layers:
            x = x + layer(x).tanh()
        return x

    def by_name(self, *, x: Tensor) -> Tensor:
        for layer in self.layers:
            x = x + layer(x).tanh()
        return x

    def by_any_name(self, **named: Tensor) -> Tensor:
        x = named["x"]
        for layer in self.layers:
            x = x + layer(x).tanh()
        return x

    def of_a_dataclass(self, batch: Batch) -> Tensor:
        x = batch.x
        for layer in self.layers:
            x = x + layer(x).tanh()
        return x


@copied
def methods() -> nn.Module:
    return moved(Methods())


CALLS: dict[str, Callable[[Any], Tensor]] = {
    "without_gradients": lambda m: m.without_gradients(X),
    "decorated": lambda m: m.decorated(X),
    "past": lambda m: m.past(X),
    "of_any_number": lambda m: m.of_any_number(X),
    "by_name": lambda m: m.by_name(x=X),
    "by_any_name": lambda m: m.by_any_name(x=X),
    "of_a_dataclass": lambda m: m.of_a_dataclass(Batch(X)),
}


@pytest.mark.parametrize("name", CALLS)
def test_a_method_is_a_door_however_it_is_written(name):
    t = methods()
    plain, expected = mhc_compile.revert(t), t(X)
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        found = CALLS[name](t)
    assert_close(found, expected)
    assert found.requires_grad is (name != "without_gradients")
    assert not torch.allclose(found, CALLS[name](plain))


class Awaited(Base):
    async def later(self, x: Tensor) -> Tensor:
        return self.layers[0](x) + x


def test_a_coroutine_stays_one_and_says_that_it_runs_plain():
    t = moved(Awaited())
    with pytest.warns(PlainBranchWarning):
        found = asyncio.run(t.later(X))
    assert_close(found, asyncio.run(mhc_compile.revert(t).later(X)))
