"""Operators that draw: once for all streams, and as the plain model does."""

from __future__ import annotations

import pytest
import torch
import torch.nn.functional as F
from torch import nn

from mhc_compile.passes.lift.lifting import can_lift
from tests.passes.graphs import traced
from tests.passes.layers import Net
from tests.passes.lift.lifted import N, X, lift_all, op_alone

DRAWS = {
    "dropout": lambda m, x: F.dropout(x, 0.5, m.training),
    "keywords": lambda m, x: F.dropout(input=x, p=0.5, training=True),
    "module": lambda m, x: m.drop(x),
    "whole channels": lambda m, x: F.dropout1d(x, 0.5, True),
    "whole channels, module": lambda m, x: m.drop2d(x[..., None])[..., 0],
    "alpha": lambda m, x: F.alpha_dropout(x, 0.3, True),
    "alpha of whole channels": lambda m, x: F.feature_alpha_dropout(x, 0.4, True),
    "alpha module": lambda m, x: m.alpha(x),
}


@pytest.mark.parametrize("name", DRAWS)
@pytest.mark.parametrize("training", [True, False])
def test_random_operators_draw_once_for_all_streams_and_as_the_plain_model_does(name, training):
    layers = {"drop": nn.Dropout(0.5), "drop2d": nn.Dropout2d(0.5), "alpha": nn.AlphaDropout(0.3)}
    model = Net(DRAWS[name], **layers).double().train(training)
    x = torch.randn(8, 16, 4, dtype=torch.float64)
    X = torch.stack([x * (1 + i) for i in range(N)])
    torch.manual_seed(1)
    expected = []
    for i in range(N):
        torch.manual_seed(1)
        expected.append(model(X[i]))
    gm = traced(model, x)
    lifted = lift_all(gm, next(n for n in gm.graph.nodes if n.op == "placeholder"))
    torch.manual_seed(1)
    assert torch.allclose(lifted(X), torch.stack(expected), rtol=1e-12, atol=1e-12)


def test_alpha_dropout_that_drops_everything_is_refused():
    graph, last = op_alone(lambda x: F.alpha_dropout(x, 1.0, True), X)
    assert not can_lift(graph, last, [0])
