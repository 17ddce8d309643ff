from __future__ import annotations

import pytest
import torch

from mhc_compile.verification.compare import allowed, distance, floats


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


def test_floats_are_found_in_nested_outputs_in_order():
    found = list(floats({"a": (torch.ones(1), [torch.ones(2)]), "b": torch.ones(3, dtype=torch.long), "c": None}))
    assert [len(t) for t in found] == [1, 2]


def test_the_narrowest_dtype_says_what_rounding_explains():
    double, single, half = (torch.zeros(1, dtype=t) for t in (torch.float64, torch.float32, torch.bfloat16))
    assert allowed(double) < allowed((double, single)) < allowed({"a": single, "b": [half]})
