"""Code around a model catches what the model raises: of the same class, with the same text, transformed or not."""

from __future__ import annotations

from typing import Any

import pytest
import torch
from torch import Tensor
from torch.testing import assert_close

from mhc_compile.errors import InputMismatchError, MhcError
from mhc_compile.model.own_errors import own_error
from tests.moved import Net, X, net, programs


class LengthError(Exception):
    def __init__(self, length: int, most: int) -> None:
        super().__init__(f"{length} of {most}")
        self.length = length


class Picky(Net):
    """Refuses lengths, after it has counted the call and computed something."""

    def forward(self, x: Tensor) -> Tensor:
        if x.shape[1] == 7:
            raise ValueError("bad length")
        if x.shape[1] == 8:
            raise LengthError(8, 5)
        if x.shape[1] == 9:
            try:
                raise KeyError(9)
            except KeyError as error:
                raise RuntimeError("outer") from error
        return super().forward(x)


class PickyPart(Net):
    def forward(self, x: Tensor) -> Tensor:
        return self.middle(self.stem(x))

    def middle(self, x: Tensor) -> Tensor:
        if x.shape[1] == 7:
            raise ValueError("bad length")
        for block in self.blocks:
            x = block(x)
        return self.head(x)


class Broken(Net):
    """Never one graph."""

    def forward(self, x: Tensor) -> Tensor:
        x = self.stem(x)
        torch._dynamo.graph_break()
        for block in self.blocks:
            x = block(x)
        return self.head(x)


CALLS: dict[str, tuple[Any, ...]] = {
    "raised": (torch.ones(2, 7, 8),),
    "of a class of its own": (torch.ones(2, 8, 8),),
    "from another": (torch.ones(2, 9, 8),),
    "by an operator": (torch.ones(2, 5, 9),),
    "too few inputs": (),
    "too many inputs": (X, X),
    "no tensor": ("text",),
}


@pytest.mark.parametrize("case", CALLS)
def test_what_the_code_raises_at_a_call_comes_out(case):
    t = net(Picky)
    before, args = t(X), CALLS[case]
    with pytest.raises(Exception) as own:
        Picky()(*args)
    with pytest.raises(type(own.value)) as found:
        t(*args)
    assert type(found.value) is type(own.value) and str(found.value) == str(own.value)
    assert type(found.value.__cause__) is type(own.value.__cause__)
    assert not isinstance(found.value.__context__, MhcError)
    assert_close(t(X), before)


def test_a_note_says_which_call_it_was():
    t = net(Picky)
    with pytest.raises(ValueError, match="bad length") as found:
        t(torch.ones(2, 7, 8))
    assert "the plain code of Picky(float32[2, 7, 8])" in found.value.__notes__[0]
    t(torch.ones(3, 6, 8))
    assert programs(t) <= 2


def test_a_method_raises_what_is_its_own():
    t = net(PickyPart)
    with pytest.raises(ValueError, match="bad length"):
        t.middle(torch.ones(2, 7, 8))


@pytest.mark.filterwarnings("ignore::mhc_compile.errors.FallbackWarning")
def test_an_operator_that_fails_in_a_call_of_several_graphs_says_what_it_says():
    t = net(Broken)
    with pytest.raises(RuntimeError, match="cannot be multiplied"):
        t(torch.ones(2, 5, 9))


def test_an_error_that_the_code_does_not_raise_is_this_packages():
    t = net(Picky)
    error = InputMismatchError("only a trace fails")
    assert own_error(t, t._mhc.entry(""), (X,), {}, error) is error
