"""Inputs that `transform` and `plan` trace with: given, declared by the model, made from its modules, or missing."""

from __future__ import annotations

import pytest
import torch
from torch import nn

import mhc_compile
from mhc_compile.errors import (
    InputMismatchError,
    MissingInputsError,
)
from tests.moved import move
from tests.toy_models import WIDTH, Block, Tower

X = torch.randn(2, 3, WIDTH, generator=torch.Generator().manual_seed(0))


def test_keyword_inputs():
    twin = move(mhc_compile.transform(Tower(), n=2, example_kwargs={"x": X, "gain": 2.0}, modes=("train",)))
    assert torch.allclose(twin(gain=2.0, x=X), twin(x=X, gain=2.0), atol=1e-6)
    assert len(twin._mhc.programs) <= 2  # another order of keywords is another trace


def test_a_single_tensor_stands_for_a_tuple():
    assert mhc_compile.plan(Tower(), example_inputs=X) == mhc_compile.plan(Tower(), example_inputs=(X,))


class Declares(Tower):
    """Declares inputs in one of the ways that libraries do."""

    def __init__(self, **declared):
        super().__init__()
        vars(self).update(declared)


@pytest.mark.parametrize(
    "declared",
    [
        {"dummy_inputs": {"x": X}},
        {"pretrained_cfg": {"input_size": (3, WIDTH)}},
        {"default_cfg": {"input_size": (3, WIDTH)}},
        {"example_input_array": X},
        {"example_input_array": (X, None)},
        {"example_input_array": {"x": X}},
        {"dummy_inputs": {"input_ids": X}, "example_input_array": X},
    ],
    ids=["hf", "timm", "timm old", "lightning", "tuple", "dict", "first does not fit"],
)
def test_declared_inputs_are_used(declared):
    plan = mhc_compile.plan(Declares(**declared), n=2)
    assert [site.shape[-1] for site in plan.sites] == [WIDTH] * 3  # without inputs there are sites, but no sizes


def test_declared_inputs_follow_device_and_dtype():
    model = Declares(example_input_array=X).double().to("meta")
    plan = mhc_compile.plan(model, n=2)
    assert len(plan.sites) == 3 and plan.sites[0].dtype.endswith("float64")


def test_given_inputs_win_over_declared_ones():
    model = Declares(example_input_array=torch.randn(2, 5))
    assert len(mhc_compile.plan(model, n=2, example_inputs=(X,)).sites) == 3
    with pytest.raises(InputMismatchError):
        mhc_compile.plan(model, n=2)


def test_untraceable_model_without_inputs_is_told_the_call():
    class Loops(Block):
        def forward(self, x):
            return super().forward(x) if x.sum() > 0 else x

    with pytest.raises(MissingInputsError, match=r"example_inputs=\(torch.randn"):
        mhc_compile.transform(Loops(), n=2)


class Functional(nn.Module):
    """A residual whose width no module tells."""

    def __init__(self):
        super().__init__()
        self.weight = nn.Parameter(torch.randn(WIDTH, WIDTH))

    def forward(self, x):
        return x + torch.tanh(x @ self.weight)


def test_residual_model_without_inputs_is_told_that_sizes_are_missing():
    with pytest.raises(MissingInputsError, match=r"sizes .* are unknown.*example_inputs=\(torch.randn"):
        mhc_compile.transform(Functional(), n=2)


def test_modules_tell_the_width_where_no_inputs_are_given():
    model = nn.Sequential(Block(), Block()).eval()
    transformed = mhc_compile.transform(model, n=2)
    keys = [s.key for s in mhc_compile.plan(model, n=2, example_inputs=torch.randn(2, WIDTH)).sites]
    assert [s.key for s in transformed.mhc_plan.sites] == keys
    other = torch.randn(3, WIDTH)
    with torch.no_grad():
        torch.testing.assert_close(transformed(other), model(other))


def test_no_inputs_are_needed_to_see_that_there_is_no_residual_connection():
    assert mhc_compile.plan(nn.Sequential(nn.Linear(4, 4), nn.ReLU())).sites == ()
