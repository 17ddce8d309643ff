"""Branches without a weight: sites among sites with weights, and none elsewhere."""

from __future__ import annotations

import pytest
import torch
import torch.nn.functional as F
from torch import nn

from tests.passes.graphs import found, plan_of, reasons
from tests.passes.layers import Net, mlps, tokens

X = tokens()


MIXERS = {
    "Fourier": lambda m, x: torch.fft.fft2(x, dim=(1, 2)).real,
    "pooling": lambda m, x: F.avg_pool1d(x.transpose(1, 2), 3, 1, 1).transpose(1, 2) - x,
    "shift": lambda m, x: 0.5 * x.roll(1, 1),
    "attention without weights": lambda m, x: torch.softmax(x @ x.transpose(1, 2), -1) @ x,
}


@pytest.mark.parametrize("name", MIXERS)
def test_a_mixer_without_a_weight_is_a_site_among_sites_with_weights(name):
    def body(m, x):
        for f in (m.f0, m.f1):
            x = m.n(x + MIXERS[name](m, x))
            x = m.n(x + f(x))
        return x

    counts, plan = found(body, n=nn.LayerNorm(8), **mlps(2))
    assert counts == (4, 1)
    assert [s.key for s in plan.sites] == ["f0.mixer", "f0", "f1.mixer", "f1"]
    left = plan_of(Net(body, n=nn.LayerNorm(8), **mlps(2)).double(), X, exclude=("*.mixer",))
    assert [s.key for s in left.sites] == ["f0", "f1"] and reasons(left).count("NO_WEIGHT") >= 2


def test_a_filter_that_is_subtracted_from_the_stream_is_no_residual():
    def body(m, x):
        for f in (m.f0, m.f1):
            x = x + f(x)
            x = x - F.avg_pool1d(x.transpose(1, 2), 3, 1, 1).transpose(1, 2)  # the trend of a series
        return x

    counts, plan = found(body, **mlps(2))
    assert counts[0] == 2 and reasons(plan) == ["NO_WEIGHT"] * 2


@pytest.mark.parametrize("body", [
    lambda m, x: m.head((u := x + MIXERS["Fourier"](m, x)) + MIXERS["pooling"](m, u)),
    lambda m, x: m.head(x + torch.sin(x)),
    lambda m, x: (u := x + m.f0(x)) + m.f1(u + MIXERS["shift"](m, u)),
])  # fmt: skip
def test_a_mixer_alone_or_inside_a_branch_is_none(body):
    _, plan = found(body, head=nn.Linear(8, 8), **mlps(2))
    assert not any("mixer" in s.key for s in plan.sites)
