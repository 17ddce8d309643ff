"""Only data makes a residual: sums of weights are none, and neither is a sum with an unknown operator."""

from __future__ import annotations

import pytest
import torch
from torch import nn

from tests.passes.graphs import found, reasons
from tests.passes.layers import mlps

WEIGHTS = {
    "a weight made of two": lambda m, x: x @ (m.w + m.a @ m.b @ m.w),
    "a residual network that makes a weight": lambda m, x: x @ ((e := m.w * 1.0) + m.f0(e)),
    "an orthogonal weight": lambda m, x: (
        x @ (torch.eye(8, dtype=x.dtype) + m.w @ (m.w.T @ torch.eye(8, dtype=x.dtype)))
    ),
}


@pytest.mark.parametrize("name", WEIGHTS)
def test_a_sum_of_weights_is_no_residual(name):
    square = {key: nn.Parameter(torch.randn(8, 8)) for key in "wab"}
    (sites, _), _ = found(WEIGHTS[name], **square, **mlps(1))
    assert not sites


def test_a_stream_of_learned_queries_begins_before_the_data():
    def body(m, x):
        h = m.q * 1.0
        h = m.n(h + m.f0(h))
        return h + m.f1(h) * x

    (sites, segments), _ = found(body, q=nn.Parameter(torch.randn(2, 6, 8)), n=nn.LayerNorm(8), **mlps(2))
    assert (sites, segments) == (2, 1)


@pytest.mark.parametrize("op", [
    lambda m, x: torch.linalg.solve(m.w, x.transpose(1, 2)).transpose(1, 2), lambda m, x: torch.cdist(x, m.w),
    lambda m, x: torch.atan2(x, m.w[:6]),
])  # fmt: skip
def test_an_unknown_operator_is_no_learnable_map(op):
    (sites, _), plan = found(lambda m, x: x + op(m, x), w=nn.Parameter(torch.randn(8, 8)))
    assert not sites and reasons(plan) == ["NO_WEIGHT"]
