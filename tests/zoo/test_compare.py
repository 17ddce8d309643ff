from __future__ import annotations

import torch
from torch import nn

from mhc_compile.verification.compare import distance
from tests.zoo.build import build
from tests.zoo.compare import cast, computes_in_float32, off_by_one, without_dropout


def test_casting_leaves_integers_alone():
    values = cast({"x": torch.ones(1), "ids": [torch.ones(1, dtype=torch.long)], "flag": False}, torch.float64)
    assert (values["x"].dtype, values["ids"][0].dtype, values["flag"]) == (torch.float64, torch.int64, False)


def test_rounding_to_float32_inside_double_precision_is_noticed():
    x = torch.ones(2, dtype=torch.float64)
    assert computes_in_float32(lambda: x.float().double())
    assert not computes_in_float32(lambda: x.softmax(0) + 1)


def test_weights_are_off_by_one_unit_in_the_last_place_and_those_of_the_model_stay():
    layer = nn.Linear(30, 30).bfloat16()
    before = layer.weight.clone()
    off = off_by_one(layer, 0).weight
    assert torch.equal(layer.weight, before) and off.dtype == torch.bfloat16
    unit = torch.finfo(torch.bfloat16).eps * before.abs()
    assert 0.2 < (off != before).float().mean() < 0.8 and bool(((off - before).abs() <= unit).all())


def test_without_dropout_a_training_model_is_deterministic():
    layer = without_dropout(nn.TransformerEncoderLayer(8, 2, dropout=0.5))
    x = torch.randn(3, 2, 8)
    assert distance(layer(x), layer(x)) == 0.0


def test_without_dropout_the_configuration_of_a_model_drops_nothing_either():
    gpt2, _, kwargs = build("hf:gpt2", train=True)
    without_dropout(gpt2)
    assert distance(gpt2(**kwargs), gpt2(**kwargs)) == 0.0
