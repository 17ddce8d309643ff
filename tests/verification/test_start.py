"""`transform` sees by itself, where it is quick, that its result does not start as the model."""

from __future__ import annotations

import itertools

import pytest
import torch
from torch import Tensor, nn

import mhc_compile
from mhc_compile.errors import VerificationError
from mhc_compile.verification import start
from tests.moved import Net, X
from tests.toy_models import WIDTH

GIVEN = {"example_inputs": (X,), "modes": ("train",)}


class Counting(Net):
    """Counts its calls where copies of it count as well."""

    calls: list[str] = []  # noqa: RUF012

    def forward(self, x: Tensor) -> Tensor:
        if not torch.compiler.is_compiling():
            self.calls.append(type(self).__name__)
        return super().forward(x)


@pytest.fixture
def calls(monkeypatch):
    monkeypatch.setattr(Counting, "calls", [])
    return Counting.calls


@pytest.mark.usefixtures("wrong_rewrite")
def test_a_wrong_rewrite_is_an_error_that_names_the_module():
    with pytest.raises(VerificationError, match=r"in train mode: 'starts as the model'.*first in blocks\.0"):
        mhc_compile.transform(Net(), n=2, **GIVEN)


@pytest.mark.usefixtures("wrong_trace")
def test_a_wrong_trace_of_pytorch_is_an_error_that_says_so():
    with pytest.raises(VerificationError, match="PyTorch's own trace"):
        mhc_compile.transform(Net(), n=2, **GIVEN)


@pytest.mark.usefixtures("wrong_rewrite")
@pytest.mark.parametrize("options", [{"verify": False}, {"init": "random"}], ids=str)
def test_it_is_not_looked_at_where_nobody_asks_or_it_is_meant_to_differ(options):
    assert mhc_compile.transform(Net(), n=2, **GIVEN, **options).mhc_plan.sites


@pytest.mark.usefixtures("wrong_rewrite")
def test_a_model_that_returns_something_else_each_time_is_not_accused():
    ticks = itertools.count(1)

    class Ticking(Net):
        def forward(self, x: Tensor) -> Tensor:
            tick = 1 if torch.compiler.is_compiling() else next(ticks)
            return super().forward(x) * tick

    assert mhc_compile.transform(Ticking(), n=2, **GIVEN).mhc_plan.sites


def test_neither_model_nor_random_numbers_are_touched(calls):
    model = nn.Sequential(Counting(), nn.BatchNorm1d(5), nn.Dropout(0.5))
    before, random = {name: t.clone() for name, t in model.state_dict().items()}, torch.get_rng_state()
    mhc_compile.transform(model, n=2, example_inputs=(X,))
    assert all(torch.equal(t, before[name]) for name, t in model.state_dict().items())
    assert torch.equal(torch.get_rng_state(), random)
    assert calls == ["Counting"] * 2  # once in each mode


@pytest.mark.parametrize("changed", ["hook", "many inputs", "many weights", "no values"])
def test_what_is_large_or_seen_by_hooks_is_not_run(changed, calls, monkeypatch):
    model, inputs = Counting(), X
    if changed == "hook":
        model.blocks[0].register_forward_hook(lambda module, args, output: None)
    elif changed == "no values":
        model, inputs = model.to("meta"), X.to("meta")
    else:
        monkeypatch.setattr(start, "MOST_INPUTS" if changed == "many inputs" else "MOST_WEIGHTS", WIDTH)
    mhc_compile.transform(model, n=2, example_inputs=(inputs,), modes=("train",))
    assert not calls


def test_inputs_that_the_model_cannot_run_are_no_error():
    class Looking(Net):
        def __init__(self) -> None:
            super().__init__()
            self.table = nn.Embedding(4, WIDTH)

        def forward(self, tokens: Tensor) -> Tensor:
            return super().forward(self.table(tokens))

    beyond = torch.full((2, 3), 9)
    assert mhc_compile.transform(Looking(), n=2, example_inputs=(beyond,)).mhc_plan.sites
