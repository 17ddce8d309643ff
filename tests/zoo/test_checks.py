"""The checks of the zoo, on fakes that behave and on fakes that do not."""

from __future__ import annotations

import copy
from types import SimpleNamespace

import pytest
import torch
from torch import nn

from mhc_compile.errors import GraphBreakError
from tests.zoo.checks import check

ONE_SITE = {"sites": 1, "graphs": 1}


class Block(nn.Module):
    def __init__(self):
        super().__init__()
        self.linear = nn.Linear(4, 4)
        self.drop = nn.Dropout(0.5)

    def forward(self, x):
        return {"out": (x + self.drop(self.linear(x)),)}


class Streams(nn.Module):
    """A transformed model as the checks see it."""

    def __init__(self, model, shift=0.0, used=True, sites=1, cut=False):
        super().__init__()
        self.model = model
        self.shift = shift
        self.used = used
        names = ["site", "site_around_a_break"] if cut else ["site"]
        self.hyper_connections = nn.ParameterDict({name: nn.Parameter(torch.zeros(())) for name in names})
        self.mhc_plan = SimpleNamespace(sites=("site",) * sites, rejected=())

    def forward(self, x):
        (y,) = self.model(x)["out"]
        return {"out": (y + self.shift + (self.hyper_connections["site"] * y if self.used else 0.0),)}


def fake_build(target, train=False):
    torch.manual_seed(0)
    return Block().train(train), (torch.randn(3, 4),), {}


def fake_transform(**faults):
    return lambda model, n, example_inputs, example_kwargs, modes: Streams(model, **faults)


def run_check(transform, expected=ONE_SITE):
    return check("fake", transform, build=fake_build, expected=expected)


def test_a_good_transformation_passes_every_check():
    result = run_check(fake_transform())
    assert result.passed and result.sites == 1
    assert set(result.errors) == {"eval float64", "eval float32", "eval bfloat16", "train float64"}
    assert max(result.errors.values()) == 0.0


def test_a_wrong_number_of_sites_fails():
    assert "found 2 sites, expected 1" in run_check(fake_transform(sites=2)).failure


def test_any_number_of_sites_passes_where_none_is_settled():
    assert run_check(fake_transform(sites=2), {"sites": None, "graphs": 1}).passed


def test_a_changed_output_fails():
    assert "eval float64: relative error" in run_check(fake_transform(shift=1e-6)).failure


def test_a_parameter_without_gradient_fails_and_is_named():
    assert "no gradient: site" in run_check(fake_transform(used=False)).failure


def test_as_many_as_the_model_cuts_off_may_have_none_if_that_is_written_down():
    facts = {**ONE_SITE, "silent": 1, "notes": "rounds"}
    result = run_check(fake_transform(cut=True), facts)
    assert result.passed and "1 of 2 new parameters have no gradient: site_around_a_break, as" in result.notes[-1]
    assert "2 of 2 new" in run_check(fake_transform(used=False, cut=True), facts).failure


def test_a_model_that_changes_with_each_call_is_compared_from_the_same_state():
    class Counting(Block):
        def __init__(self):
            super().__init__()
            self.register_buffer("seen", torch.zeros(()))

        def forward(self, x):
            self.seen += 1
            return super().forward(self.seen * x)

    made = lambda *_, train=False: (Counting().train(train), *fake_build("")[1:])
    assert check("fake", fake_transform(), build=made, expected=ONE_SITE).passed


def test_where_graphs_break_in_training_some_may_have_none():
    breaks = {**ONE_SITE, "graphs_train": 2}
    result = run_check(fake_transform(cut=True), breaks)
    assert result.passed and "1 of 2 new parameters have no gradient: site_around_a_break" in result.notes[-1]
    assert "site_around_a_break" in run_check(fake_transform(cut=True)).failure
    assert "1 of 1 new" in run_check(fake_transform(used=False), breaks).failure


def test_a_break_in_training_may_leave_fewer_sites_there_if_that_is_written_down():
    def transform(model, **_):
        return Streams(model, sites=1 if model.training else 2)

    facts = {"sites": 2, "graphs": 1, "graphs_train": 3}
    assert run_check(transform, {**facts, "sites_train": 1}).passed
    assert "found 1 sites, expected 2" in run_check(transform, facts).failure
    assert "found 2 sites, expected 1" in run_check(fake_transform(sites=2), {**facts, "sites_train": 1}).failure


class Router(Block):
    """Chooses by a number that bfloat16 rounds to a tie."""

    def forward(self, x):
        chosen = (x.new_tensor(1.0) + x.new_tensor(2**-9)) > 1.0
        return {"out": (x + self.linear(x) * chosen,)}


@pytest.mark.parametrize(("choice", "passes"), [(1.0, True), (-2.0, False)])
def test_in_bfloat16_a_result_may_be_as_far_from_the_model_in_float32_as_the_model_itself(choice, passes):
    class Chosen(Streams):
        def forward(self, x):
            y = x + choice * self.model.linear(x) + 0 * self.hyper_connections["site"]
            return {"out": (y if x.dtype is torch.bfloat16 else x + self.model.linear(x) + 0 * y,)}

    def build(target, train=False):
        torch.manual_seed(0)
        return Router().train(train), (torch.randn(3, 4),), {}

    result = check("fake", lambda model, **_: Chosen(model), build=build, expected=ONE_SITE, train=False)
    assert result.passed == passes
    assert any("the model itself is" in note for note in result.notes) == passes


def test_a_transformation_that_changes_the_original_fails():
    def transform(model, **_):
        original = copy.deepcopy(model)
        model.linear.weight.data.mul_(2)
        return Streams(original)

    assert "changed the state of the original model" in run_check(transform).failure


def refuse(model, **_):
    raise GraphBreakError("break at model.py:3")


def test_a_refusal_passes_only_where_the_graph_breaks():
    assert run_check(refuse, {"sites": 1, "graphs": 3}).notes == ("evaluation mode refused as expected: graph break",)
    assert "break at model.py:3" in run_check(refuse).failure


def test_a_refusal_of_training_mode_alone_passes_only_where_that_graph_breaks():
    def transform(model, **_):
        return refuse(model) if model.training else Streams(model)

    result = run_check(transform, {"sites": 1, "graphs": 1, "graphs_train": 2})
    assert result.passed and result.notes == ("training mode refused as expected: graph break",)
    assert not run_check(transform).passed


def test_a_model_that_cannot_compute_in_double_precision_is_trained_in_single():
    class Single(Block):
        def forward(self, x):
            if x.dtype is torch.float64:
                raise RuntimeError("float32 only")
            return super().forward(x)

    result = check(
        "fake",
        fake_transform(),
        build=lambda *_, train=False: (Single().train(train), *fake_build("")[1:]),
        expected=ONE_SITE,
    )
    assert result.passed and "train float32" in result.errors and "eval float64" not in result.errors


def test_a_broken_graph_that_is_captured_all_the_same_is_counted():
    assert not run_check(fake_transform(sites=2), {"sites": 1, "graphs": 3}).passed


def test_a_model_that_is_returned_unchanged_has_no_sites():
    assert run_check(lambda model, **_: model, {"sites": 0, "graphs": 1}).passed


def test_an_unexpected_exception_is_a_failure_not_a_crash():
    assert "ZeroDivisionError" in run_check(lambda model, **_: 1 / 0).failure
