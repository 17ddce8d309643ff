"""What a forward reads is read anew: a change is seen by the next call, and leads to a trace only where it must."""

from __future__ import annotations

from collections import OrderedDict

import pytest
import torch
from torch import Tensor, nn
from torch.testing import assert_close

from mhc_compile.programs.bound_reads import bind
from tests.capture.places import PLACES
from tests.capture.readers import InConfig, InTensor
from tests.moved import Net, X, moved, net, programs


class InFunction(Net):
    def __init__(self) -> None:
        super().__init__()
        self.function = lambda x: x

    def forward(self, x: Tensor) -> Tensor:
        return self.function(super().forward(x))


@pytest.mark.parametrize("place", PLACES)
def test_what_forward_reads_is_never_stale_and_costs_no_trace_once_it_is_as_before(place):
    make, change, change_back = PLACES[place]
    t = net(make)
    before = t(X)
    try:
        change(t)
        assert_close(t(X), 3 * before)
    finally:
        change_back(t)
    assert_close(t(X), before)
    assert programs(t) <= 2


def test_a_function_in_an_attribute_is_compared_by_itself():
    t = net(InFunction)
    before = t(X)
    t.function = lambda x: 3 * x
    assert_close(t(X), 3 * before)


def test_a_variable_of_the_function_around_is_read_anew():
    gain = 1.0

    class Inner(Net):
        def forward(self, x: Tensor) -> Tensor:
            return super().forward(x) * gain

    t = moved(Inner())
    before = t(X)
    gain = 3.0
    assert_close(t(X), 3 * before)


class AsksModes(Net):
    def forward(self, x: Tensor) -> Tensor:
        x = super().forward(x)
        return x if torch.is_grad_enabled() else 3 * x


def test_a_branch_for_the_gradient_mode_is_taken_at_each_call():
    t = moved(AsksModes())
    before = t(X)
    with torch.no_grad():
        assert_close(t(X), 3 * before)
    assert_close(t(X), before)


class LeavesAutocast(Net):
    """What models with rotary embeddings do where autocast is on."""

    def forward(self, x: Tensor) -> Tensor:
        x = super().forward(x).float()
        if self.asks():
            with torch.autocast("cpu", enabled=False):
                return x @ x.mT
        return x @ x.mT

    def asks(self) -> bool:
        return torch.is_autocast_enabled("cpu")


class LeavesAutocastOfTheCpu(LeavesAutocast):
    def asks(self) -> bool:
        return torch.is_autocast_cpu_enabled()


@pytest.mark.parametrize("kind", [LeavesAutocast, LeavesAutocastOfTheCpu])
def test_code_that_leaves_autocast_does_so_where_it_was_traced_without(kind):
    t = moved(kind())
    t(X)
    with torch.autocast("cpu", torch.bfloat16):
        assert t(X).dtype == torch.float32
    assert t(X).dtype == torch.float32


class AsksForGradients(Net):
    def forward(self, x: Tensor) -> Tensor:
        frozen = not any(p.requires_grad for p in self.blocks.parameters())
        return super().forward(x) * (3.0 if frozen else 1.0) * (0.5 if x.requires_grad else 1.0)


def test_what_requires_gradients_is_read_where_code_asks_for_it():
    t = moved(AsksForGradients())
    before = t(X)
    t.blocks.requires_grad_(False)
    assert_close(t(X), 3 * before)
    t.blocks.requires_grad_(True)
    assert_close(t(X), before)
    assert programs(t) == 2


def test_whether_an_input_requires_gradients_is_read_where_code_asks_for_it():
    t = moved(AsksForGradients())
    before = t(X)
    assert_close(t(X.clone().requires_grad_()), 0.5 * before)
    assert_close(t(X), before)


def test_a_schedule_that_sets_a_tensor_before_each_call_leads_to_no_trace():
    t = net(InTensor)
    before = t(X)
    for gain in (2.0, 3.0, 4.0):
        t.gain = torch.tensor(gain)
        assert_close(t(X), gain * before)
    assert programs(t) == 1


def test_an_attribute_that_nobody_reads_leads_to_no_trace():
    t = net(InConfig)
    t.comment, t.config.other = "changed", 3
    t(X)
    assert programs(t) == 1


def test_what_has_changed_is_named():
    t = net()
    t.blocks[0].drop.p = 0.5
    assert bind(t._mhc.programs[0].reads, t) == "blocks.0.drop.p is 0.5, no longer 0.0"


def test_a_module_of_another_class_or_one_that_is_new_is_named():
    t = net()
    t.blocks[0].norm = nn.Identity()
    assert "blocks.0.norm is a Identity, no longer a LayerNorm" in str(bind(t._mhc.programs[0].reads, t))
    other = net()
    other.blocks[0].more = nn.Linear(2, 2)
    assert "blocks.0.more is new" in str(bind(other._mhc.programs[0].reads, other))


G = {"gain": 1.0}


class InOddNames(Net):
    """Names that end as those end which Dynamo has for the inputs, `L`, and for the globals, `G`."""

    def __init__(self) -> None:
        super().__init__()
        self.MODEL, self.L, self.G = {"gain": 1.0}, {"gain": 1.0}, {"gain": 1.0}

    def forward(self, x: Tensor) -> Tensor:
        return super().forward(x) * self.MODEL["gain"] * self.L["gain"] * self.G["gain"] * G["gain"]


class InKinds(Net):
    def __init__(self) -> None:
        super().__init__()
        self.sizes, self.names = [1.0], {"gain": 1.0}

    def forward(self, x: Tensor) -> Tensor:
        x = super().forward(x)
        x = 2 * x if isinstance(self.sizes, tuple) else x
        return x if type(self.names) is dict else 3 * x


@pytest.mark.parametrize("name", ["MODEL", "L", "G", "global"])
def test_a_value_is_read_anew_whatever_the_name_of_its_place_ends_with(name, monkeypatch):
    t = net(InOddNames)
    before = t(X)
    place = G if name == "global" else getattr(t, name)
    monkeypatch.setitem(place, "gain", 4.0)
    assert_close(t(X), 4 * before)


def test_a_list_that_became_a_tuple_is_another_value():
    t = net(InKinds)
    before = t(X)
    t.sizes = (1.0,)
    assert_close(t(X), 2 * before)
    t.names = OrderedDict(gain=1.0)
    assert_close(t(X), 6 * before)
    t.sizes, t.names = [1.0], {"gain": 1.0}
    assert_close(t(X), before)
