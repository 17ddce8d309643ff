"""Looking at what a model does, by running it, leaves no mark in its attributes."""

from __future__ import annotations

from collections import OrderedDict, defaultdict, deque
from typing import Any

import pytest
import torch
from torch import Tensor, nn

import mhc_compile
from mhc_compile.dynamo.attributes_kept import attributes_kept
from mhc_compile.errors import CaptureError
from tests.dynamo.breaking import Halves
from tests.moved import X


class Writes(Halves):
    """Counts and collects, in itself and in a block, at every call; `fails` in the end if it is to."""

    def __init__(self) -> None:
        super().__init__()
        self.calls, self.last, self.fails, self.once = 0, None, False, "here"
        self.seen, self.counts, self.names = [["old"]], {"calls": 0}, {"old"}
        self.recent: deque[int] = deque([1, 2], maxlen=2)
        self.ordered: OrderedDict[str, int] = OrderedDict(b=1, a=2)
        self.of: defaultdict[str, list[int]] = defaultdict(list)

    def forward(self, x: Tensor) -> Tensor:
        self.calls += 1
        self.last = x
        torch._dynamo.graph_break()
        self.seen[0].append("new")
        self.counts["calls"] += 1
        self.names.add("new")
        self.recent.append(3)
        self.ordered["c"] = 3
        self.of["calls"].append(1)
        self.front[0].found = getattr(self.front[0], "found", 0) + 1
        if hasattr(self, "once"):
            del self.once
        torch._dynamo.graph_break()
        if self.fails:
            raise ValueError("bad length")
        return super().forward(x)


def state(model: nn.Module) -> dict[str, Any]:
    """Attributes as text, and which objects they are."""
    own = {name: value for name, value in vars(model).items() if not name.startswith("_")}
    return {name: (repr(value), id(value)) for name, value in own.items() if name != "mhc_plan"}


def test_a_model_that_was_transformed_in_several_graphs_has_its_attributes_as_before():
    model = Writes()
    before = state(model), state(model.front[0])
    with pytest.warns(UserWarning, match="breaks at"):
        t = mhc_compile.transform(model, example_inputs=(X,))
        assert (state(model), state(model.front[0])) == before
        assert t.calls == 0 and t.seen == [["old"]]
        t(X)
    assert t.calls == 1 and t.seen == [["old", "new"]]


def test_a_model_that_fails_in_the_middle_has_its_attributes_as_before():
    model = Writes()
    model.fails = True
    before = state(model), state(model.front[0])
    with pytest.raises(CaptureError, match="bad length"):
        mhc_compile.transform(model, example_inputs=(X,))
    assert (state(model), state(model.front[0])) == before


def test_what_pytorch_keeps_in_a_module_is_left_to_others():
    model = nn.Linear(2, 2)
    with attributes_kept(model):
        model.register_buffer("late", torch.zeros(1))
        model.eval()
    assert not model.training and "late" in dict(model.named_buffers())
