"""A `torch.compile` around a transformed model sees what the model reads change."""

from __future__ import annotations

import pytest
import torch
from torch import Tensor
from torch.testing import assert_close

from tests.capture.places import PLACES
from tests.moved import Net, X, moved
from tests.tables import also


@pytest.mark.parametrize("place", ["config", *also("attribute", "class", "global object", "dict in a dict", "list")])
def test_an_outer_compile_sees_what_has_changed_wherever_it_lies(place):
    make, change, change_back = PLACES[place]
    t = moved(make())
    compiled = torch.compile(t, backend="eager")
    before = compiled(X)
    with torch.compiler.set_stance("fail_on_recompile"):
        assert_close(compiled(X), before)
    assert_close(before, t(X))
    try:
        change(t)
        assert_close(compiled(X), 3 * before)
    finally:
        change_back(t)
    assert_close(compiled(X), before)


def test_an_outer_compile_sees_a_variable_of_the_function_around():
    gain = 1.0

    class Inner(Net):
        def forward(self, x: Tensor) -> Tensor:
            return super().forward(x) * gain

    t = moved(Inner())
    compiled = torch.compile(t, backend="eager")
    before = compiled(X)
    assert_close(compiled(X), before)
    gain = 3.0
    assert_close(compiled(X), 3 * before)
