"""What is drawn on the stream is drawn once, and as in the plain model."""

from __future__ import annotations

import pytest
import torch
import torch.nn.functional as F

from tests.passes.layers import Net, mlps, tokens

X = tokens()


NOISES = {
    "dropout": lambda m, x: F.dropout(x, 0.5, m.training),
    "dropout of whole tokens": lambda m, x: F.dropout1d(x, 0.5, m.training),
    "noise": lambda m, x: x + torch.randn_like(x),
    "noise that multiplies": lambda m, x: x * (1 + 0.1 * torch.rand_like(x)),
    "dropped samples": lambda m, x: x * x.new_empty(x.shape[0], 1, 1).bernoulli_(0.5),
}


@pytest.mark.parametrize("name", NOISES)
def test_what_is_drawn_on_the_stream_is_drawn_once_and_as_in_the_plain_model(name):
    from mhc_compile import transform

    def body(m, x):
        for f in (m.f0, m.f1, m.f2):
            x = NOISES[name](m, x + f(x))
        return x

    model = Net(body, **mlps(3)).double().train()
    new = transform(model, n=4, example_inputs=(X,), modes="train")
    assert len(new.mhc_plan.segments) == 1
    torch.manual_seed(3)
    expected = model(X)
    torch.manual_seed(3)
    assert torch.allclose(new(X), expected, rtol=1e-9, atol=1e-9)
