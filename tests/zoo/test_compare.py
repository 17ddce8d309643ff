from __future__ import annotations

import pytest
import torch
from torch import nn

from tests.zoo.build import build
from tests.zoo.compare import cast, computes_in_float32, distance, floats, without_dropout


def test_distance_is_relative_to_the_root_mean_square():
    assert distance([torch.tensor([3.0, -3.0])], [torch.tensor([3.0, -2.7])]) == pytest.approx(0.1, rel=1e-5)


@pytest.mark.parametrize(
    "other",
    [{}, {"a": torch.ones(3)}, {"a": torch.tensor([1.0, torch.nan])}, {"a": torch.ones(2), "b": torch.ones(2)}],
)
def test_distance_is_infinite_between_different_structures_shapes_or_masks(other):
    assert distance({"a": torch.ones(2)}, other) == float("inf")


def test_masked_entries_must_be_masked_alike():
    masked = torch.tensor([1.0, -torch.inf])
    assert distance(masked, masked.clone()) == 0.0
    assert distance(masked, -masked) == float("inf")


def test_casting_leaves_integers_alone():
    values = cast({"x": torch.ones(1), "ids": [torch.ones(1, dtype=torch.long)], "flag": False}, torch.float64)
    assert (values["x"].dtype, values["ids"][0].dtype, values["flag"]) == (torch.float64, torch.int64, False)


def test_floats_are_found_in_nested_outputs_in_order():
    found = list(floats({"a": (torch.ones(1), [torch.ones(2)]), "b": torch.ones(3, dtype=torch.long), "c": None}))
    assert [len(t) for t in found] == [1, 2]


def test_rounding_to_float32_inside_double_precision_is_noticed():
    x = torch.ones(2, dtype=torch.float64)
    assert computes_in_float32(lambda: x.float().double())
    assert not computes_in_float32(lambda: x.softmax(0) + 1)


def test_without_dropout_a_training_model_is_deterministic():
    layer = without_dropout(nn.TransformerEncoderLayer(8, 2, dropout=0.5))
    x = torch.randn(3, 2, 8)
    assert distance(layer(x), layer(x)) == 0.0


def test_without_dropout_the_configuration_of_a_model_drops_nothing_either():
    gpt2, _, kwargs = build("hf:gpt2", train=True)
    without_dropout(gpt2)
    assert distance(gpt2(**kwargs), gpt2(**kwargs)) == 0.0
