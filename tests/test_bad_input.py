from __future__ import annotations

import pytest
import torch
from torch import nn

import mhc_compile
from mhc_compile import errors
from tests.copies import copied
from tests.toy_models import WIDTH, Block, Branching, Integers, Tower

X = torch.randn(2, 3, WIDTH)
GIVEN = {"example_inputs": (X,)}


@copied
def transformed() -> nn.Module:
    return mhc_compile.transform(Tower(), n=2, modes=("train",), **GIVEN)


def snapshot(model: nn.Module):
    """Everything a failed call could have left behind."""
    modules = [(type(m), m.training, sorted(vars(m)), len(m._forward_hooks)) for m in model.modules()]
    return modules, {k: v.clone() for k, v in model.state_dict().items()}


def same(a, b):
    values = all(v.is_meta or torch.equal(v, b[1][k]) for k, v in a[1].items())
    return a[0] == b[0] and list(a[1]) == list(b[1]) and values


def split_devices():
    model = Tower()
    model.blocks[1].to("meta")
    return model


def _in_place(model):
    model.compile(backend="eager")
    return model


class Holder(nn.Module):
    """Holds a transformed model as a submodule."""

    def __init__(self) -> None:
        super().__init__()
        self.inner = transformed()

    def forward(self, x):
        return self.inner(x)


CASES = {
    "python branch, strict": (Branching, {**GIVEN, "strict": True}, errors.GraphBreakError, "remove the break"),
    "integers": (Integers, {"example_inputs": (torch.arange(4),)}, errors.NoFloatError, "floating point"),
    "no residual": (lambda: nn.Linear(WIDTH, 4), {**GIVEN, "strict": True}, errors.NothingToTransformError, "include"),
    "n=0": (Tower, {**GIVEN, "n": 0}, errors.InvalidOptionError, "write an int from 1 to 8"),
    "n=-1": (Tower, {**GIVEN, "n": -1}, errors.InvalidOptionError, "write an int from 1 to 8"),
    "n='4'": (Tower, {**GIVEN, "n": "4"}, errors.InvalidOptionError, "write an int from 1 to 8"),
    "n=True": (Tower, {**GIVEN, "n": True}, errors.InvalidOptionError, "write an int from 1 to 8"),
    "unknown option": (Tower, {**GIVEN, "streams": 4}, errors.InvalidOptionError, "the options are n, connection"),
    "unknown mode": (Tower, {**GIVEN, "modes": ("test",)}, errors.InvalidOptionError, r"\('train', 'eval'\)"),
    "no mode": (Tower, {**GIVEN, "modes": ()}, errors.InvalidOptionError, r"\('train', 'eval'\)"),
    "two devices": (split_devices, GIVEN, errors.MixedDeviceError, r"write model\.to"),
    "input elsewhere": (Tower, {"example_inputs": (X.to("meta"),)}, errors.MixedDeviceError, r"write x\.to\('cpu'\)"),
    "transformed": (
        transformed,
        GIVEN,
        errors.AlreadyTransformedError,
        r"revert\(model\)",
    ),
    "transformed inside": (Holder, GIVEN, errors.AlreadyTransformedError, "inner already has"),
    "missing input": (Tower, {"example_inputs": ()}, errors.InputMismatchError, "write example_inputs"),
    "extra input": (Tower, {"example_inputs": (X,) * 9}, errors.InputMismatchError, "write example_inputs"),
    "unknown name": (Tower, {**GIVEN, "example_kwargs": {"y": 1}}, errors.InputMismatchError, "forward takes"),
    "wrong shape": (Tower, {"example_inputs": (torch.randn(2, 5),)}, errors.InputMismatchError, "Pass inputs"),
    "dict of inputs": (Tower, {"example_inputs": {"x": X}}, errors.InputMismatchError, "write example_kwargs"),
    "list of names": (Tower, {"example_kwargs": [X]}, errors.InputMismatchError, "write example_kwargs"),
    "number as input": (Tower, {"example_inputs": 3}, errors.InputMismatchError, r"write example_inputs=\(x,\)"),
    "no input": (Branching, {}, errors.MissingInputsError, r"mhc_compile\.transform\(model, n=4, example_inputs"),
    "exclude": (Tower, {**GIVEN, "exclude": "nowhere.*"}, errors.PatternError, r"nowhere\.\*"),
    "include": (Tower, {**GIVEN, "include": ["nowhere.*"]}, errors.PatternError, r"nowhere\.\*"),
    "compiled in place": (lambda: _in_place(Tower()), GIVEN, errors.CaptureError, "model.compile.. after"),
    "compiled": (lambda: torch.compile(Tower()), GIVEN, errors.CaptureError, "give the plain module to"),
}


@pytest.mark.parametrize("case", CASES)
def test_each_mistake_has_its_class_says_what_to_write_and_changes_nothing(case):
    make, arguments, error, message = CASES[case]
    model = make()
    before = snapshot(model)
    with pytest.raises(error, match=message) as caught:
        mhc_compile.transform(model, **arguments)
    assert isinstance(caught.value, errors.MhcError)
    assert same(before, snapshot(model))


@pytest.mark.parametrize("case", [c for c in CASES if "mode" not in c and c != "no residual"])
def test_the_dry_run_fails_alike(case):
    make, arguments, error, message = CASES[case]
    with pytest.raises(error, match=message):
        mhc_compile.plan(make(), **arguments)


@pytest.mark.parametrize("thing", [Block, 3, None, "timm:resnet18", lambda x: x], ids=lambda t: type(t).__name__)
def test_not_a_module(thing):
    with pytest.raises(errors.NotAModuleError, match="Module"):
        mhc_compile.transform(thing, **GIVEN)


def test_error_in_the_other_mode_restores_training_flags():
    class Odd(Tower):
        def forward(self, x):
            return super().forward(x) if self.training or x.sum() > 0 else x

    model = Odd()
    model.blocks[0].eval()
    before = snapshot(model)
    with pytest.raises(errors.GraphBreakError, match="in eval mode"):
        mhc_compile.transform(model, n=2, strict=True, **GIVEN)
    assert same(before, snapshot(model))


def test_a_lazy_module_that_was_not_called_is_an_error_that_says_so():
    model = nn.Sequential(nn.LazyLinear(8), nn.ReLU())
    with pytest.raises(errors.LazyParametersError, match=r"0\.weight gets its shape at the first call"):
        mhc_compile.transform(model, example_inputs=(torch.randn(2, 3),))
    model(torch.randn(2, 3))
    with pytest.warns(errors.NothingToTransformWarning):
        mhc_compile.transform(model, example_inputs=(torch.randn(2, 3),))
