from __future__ import annotations

import pytest
import torch
import torch.nn.functional as F
from torch import fx

from mhc_compile.passes.lift.draws import takes_numbers


def last(function) -> fx.Node:
    graph = fx.symbolic_trace(function).graph
    return graph.output_node().args[0]


@pytest.mark.parametrize(
    "function",
    [
        lambda x: F.dropout(x, 0.1),
        lambda x: F.dropout(x, 0.1, True),
        lambda x: F.dropout2d(x, 0.1, training=True),
        lambda x: F.alpha_dropout(x, 0.1, training=True),
        lambda x: torch.rand_like(x),
        lambda x: torch.bernoulli(x),
        lambda x: x.normal_(),
        lambda x: F.gumbel_softmax(x),
        lambda x: F.rrelu(x, training=True),
        lambda x: F.scaled_dot_product_attention(x, x, x, None, 0.1),
        lambda x: F.scaled_dot_product_attention(x, x, x, dropout_p=0.1),
    ],
)
def test_what_draws(function):
    assert takes_numbers(last(function))


@pytest.mark.parametrize(
    "function",
    [
        lambda x: F.dropout(x, 0.1, False),
        lambda x: F.dropout(x, 0.1, training=False),
        lambda x: F.alpha_dropout(x, 0.1, training=False),
        lambda x: F.scaled_dot_product_attention(x, x, x),
        lambda x: F.scaled_dot_product_attention(x, x, x, dropout_p=0.0),
        lambda x: F.normalize(x),
        lambda x: F.instance_norm(x),
        lambda x: x.norm(),
    ],
)
def test_what_draws_nothing(function):
    assert not takes_numbers(last(function))
