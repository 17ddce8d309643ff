from __future__ import annotations

import pytest
import torch
from torch import nn

from mhc_compile._torch_compat import tree_flatten
from mhc_compile.capture.trace import capture
from tests.toy_models import WIDTH, Forked, Tower


def matches(spec, *args, **kwargs):
    flat, tree = tree_flatten((args, kwargs))
    return spec.matches(flat, tree)


def x(*shape, dtype=torch.float32):
    return torch.zeros(*shape, dtype=dtype)


@pytest.fixture(scope="module")
def spec():
    return capture(Tower(), (x(3, 4, WIDTH),), {"gain": 2}).input_spec


def test_other_batch_and_length_match(spec):
    assert matches(spec, x(3, 4, WIDTH), gain=2) and matches(spec, x(9, 17, WIDTH), gain=2)


@pytest.mark.parametrize(
    ("args", "kwargs"),
    [
        ((x(3, 4, WIDTH + 1),), {"gain": 2}),
        ((x(1, 4, WIDTH),), {"gain": 2}),
        ((x(0, 4, WIDTH),), {"gain": 2}),
        ((x(3, WIDTH),), {"gain": 2}),
        ((x(3, 4, WIDTH, dtype=torch.float64),), {"gain": 2}),
        ((x(3, 4, WIDTH).to("meta"),), {"gain": 2}),
        ((x(3, 4, WIDTH),), {"gain": 3}),
        ((x(3, 4, WIDTH),), {"gain": 2.0}),
        ((x(3, 4, WIDTH),), {}),
        ((x(3, 4, WIDTH),), {"mask": 2}),
        ((x(3, 4, WIDTH), None), {"gain": 2}),
        ((None,), {"gain": 2}),
    ],
    ids=["width", "batch 1", "batch 0", "rank", "dtype", "device", "value", "type", "fewer", "name", "more", "none"],
)
def test_anything_else_does_not_match(spec, args, kwargs):
    assert not matches(spec, *args, **kwargs)


def test_true_is_not_one():
    spec = capture(Tower(), (x(3, WIDTH),), {"gain": 1}).input_spec
    assert matches(spec, x(3, WIDTH), gain=1) and not matches(spec, x(3, WIDTH), gain=True)


def test_a_size_shared_by_two_inputs_must_be_shared():
    class Sum(nn.Linear):
        def forward(self, a, b):
            return super().forward(a) + b

    spec = capture(Sum(4, 4), (x(3, 4), x(3, 4))).input_spec
    assert matches(spec, x(5, 4), x(5, 4)) and not matches(spec, x(5, 4), x(6, 4))


def test_branches_taken_on_sizes_are_guarded():
    spec = capture(Forked(), (x(2, 4, WIDTH),)).input_spec
    assert matches(spec, x(2, 5, WIDTH)) and not matches(spec, x(2, 6, WIDTH))
    assert "5" in spec.guard_source


def test_divisibility_is_guarded():
    class Halves(nn.Linear):
        def forward(self, a):
            return super().forward(a).view(2, a.shape[0] // 2, -1) if a.shape[0] % 2 == 0 else super().forward(a)

    spec = capture(Halves(4, 4), (x(6, 4),)).input_spec
    assert matches(spec, x(8, 4)) and not matches(spec, x(7, 4))
