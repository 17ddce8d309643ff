from __future__ import annotations

import pytest
import torch
import torch.nn.functional as F
from torch import nn

from tests.passes.graphs import plan_of
from tests.passes.layers import Net, PreNorm, mlps, tokens, vector
from tests.passes.shapes import SHAPES

X = tokens()


def first(body, front_end="symbolic", **layers):
    return plan_of(Net(body, n=nn.LayerNorm(8), **mlps(2), **layers).double(), X, front_end=front_end).sites[0]


@pytest.mark.parametrize(("body", "kind"), [
    (lambda m, x: x + m.f0(m.n(x)), "prenorm"), (lambda m, x: x + m.f0(x), "prenorm"),
    (lambda m, x: m.n(x + m.f0(x)), "postnorm"), (lambda m, x: F.relu(x + m.f0(x)), "postact"),
    (lambda m, x: x + m.f0(x) + m.f1(x), "parallel"), (lambda m, x: 0.5 * x + m.f0(x), "scaled"),
    (lambda m, x: x + 0.5 * m.f0(x), "scaled"), (lambda m, x: x + (m.g * m.f0(x)).view(2, 6, 8), "scaled"),
    (lambda m, x: m.n(x + m.f0(m.n(x))), "prenorm"),
])  # fmt: skip
def test_kind(body, kind):
    assert first(body, g=vector()).kind == kind


def test_a_scale_inside_the_branch_does_not_make_it_scaled():
    assert first(lambda m, x: x + m.f0(0.5 * x)).kind == "prenorm"


@pytest.mark.parametrize("front_end", ["dynamo", "export"])
def test_the_summary_names_norms_weights_and_activations_in_order(front_end):
    attention, mlp = plan_of(PreNorm().double(), X, front_end=front_end).sites
    assert attention.branch_summary == "layer_norm, linear x4, matmul x2, softmax"
    assert mlp.branch_summary == "layer_norm, linear x2, gelu"


def test_a_spelled_out_rms_norm_is_called_by_its_name():
    body = lambda m, x: x + m.f0(x * torch.rsqrt(x.pow(2).mean(-1, keepdim=True) + 1e-6))
    assert first(body, "dynamo").branch_summary == "rms_norm, linear x2, gelu"


def test_a_convolutional_branch():
    model, inputs = SHAPES["convnext"].make()
    assert plan_of(model, *inputs, front_end="dynamo").sites[0].branch_summary == "conv2d, layer_norm, linear x2, gelu"
