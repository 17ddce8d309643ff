from __future__ import annotations

import pytest
import torch
from torch import nn

from mhc_compile.errors import InvalidOptionError
from mhc_compile.targets.inputs import make_tensor, parse_input_spec, to_device, with_inputs
from mhc_compile.targets.target import Target


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        ("2x3x224x224:float32", (None, (2, 3, 224, 224), torch.float32)),
        ("input_ids=2x16:int64", ("input_ids", (2, 16), torch.int64)),
        ("7", (None, (7,), torch.float32)),
        (" 1x2:bfloat16 ", (None, (1, 2), torch.bfloat16)),
        ("mask=4:bool", ("mask", (4,), torch.bool)),
    ],
)
def test_reads_name_shape_and_dtype(text, expected):
    assert parse_input_spec(text) == expected


@pytest.mark.parametrize(
    "text", ["", "2x", "x2", "2X3", "2,3:float32", "=2x3", "a b=2", "2x3:", "-1x2", "2x3:float32:int64"]
)
def test_rejects_a_spec_of_another_form_and_repeats_it(text):
    with pytest.raises(InvalidOptionError, match="cannot be read") as error:
        parse_input_spec(text)
    assert repr(text) in str(error.value)


def test_rejects_an_unknown_dtype_and_lists_the_known():
    with pytest.raises(InvalidOptionError, match=r"'float31'.*float32.*int64"):
        parse_input_spec("2x3:float31")


def test_rejects_an_empty_tensor():
    with pytest.raises(InvalidOptionError, match="size of 0"):
        parse_input_spec("2x0x3")


@pytest.mark.parametrize("text", ["2x3:float16", "2x3:int32", "2x3:bool", "2x3:uint8"])
def test_a_tensor_has_the_shape_and_dtype_of_its_spec(text):
    spec = parse_input_spec(text)
    tensor = make_tensor(spec, "cpu")
    assert (tuple(tensor.shape), tensor.dtype) == (spec.shape, spec.dtype)


def test_masks_hide_nothing():
    assert make_tensor(parse_input_spec("attention_mask=2x3:int64"), "cpu").eq(1).all()


def test_given_inputs_replace_every_default_tensor_but_no_option():
    defaults = {"ids": torch.ones(2), "pair": [torch.ones(2)], "use_cache": False}
    target = Target("t", nn.Linear(3, 3, device="meta"), (torch.ones(1),), defaults)
    changed = with_inputs(target, ["4x3:float32", "mask=4:bool"])
    assert [tuple(x.shape) for x in changed.example_inputs] == [(4, 3)]
    assert set(changed.example_kwargs) == {"mask", "use_cache"}
    assert changed.example_inputs[0].is_meta and changed.example_kwargs["mask"].is_meta


def test_no_given_inputs_leave_the_defaults():
    target = Target("t", nn.Identity(), (torch.ones(1),), {})
    assert with_inputs(target, ()) is target


def test_rejects_two_inputs_of_one_name():
    with pytest.raises(InvalidOptionError, match="'x' is given twice"):
        with_inputs(Target("t", nn.Identity()), ["x=2", "x=3"])


def test_moves_nested_tensors_and_keeps_the_rest():
    moved = to_device({"a": [torch.ones(1)], "b": (1, torch.ones(2)), "c": "text"}, torch.device("meta"))
    assert moved["a"][0].is_meta and moved["b"][1].is_meta
    assert (moved["b"][0], moved["c"]) == (1, "text")
