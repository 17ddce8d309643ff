"""Random numbers are drawn in the order of the plain model, also where the code of modules is put together anew."""

from __future__ import annotations

import pytest
import torch
from torch import nn
from torch.testing import assert_close

import mhc_compile


class FeedForward(nn.Module):
    def __init__(self):
        super().__init__()
        self.up, self.down, self.norm = nn.Linear(8, 16), nn.Linear(16, 8), nn.LayerNorm(8)
        self.drop = nn.Dropout(0.2)

    def forward(self, x):
        return self.norm(x + self.drop(self.down(self.up(x).relu())))


class Attention(nn.Module):
    """Of two streams, as in XLNet: what both read is computed once."""

    def __init__(self):
        super().__init__()
        self.value, self.out, self.norm, self.drop = nn.Linear(8, 8), nn.Linear(8, 8), nn.LayerNorm(8), nn.Dropout(0.2)

    def forward(self, h, g):
        value = self.value(h)
        following = self.norm(h + self.drop(self.out(value.tanh())))
        return following, self.norm(g + self.drop(self.out((value.mean(1, keepdim=True) + g).sin())))


class Layer(nn.Module):
    def __init__(self):
        super().__init__()
        self.attention, self.feed_forward = Attention(), FeedForward()

    def forward(self, h, g):
        h, g = self.attention(h, g)
        g = self.feed_forward(g)  # the second first
        return self.feed_forward(h), g


class TwoStreams(nn.Module):
    def __init__(self):
        super().__init__()
        self.layers, self.head = nn.ModuleList(Layer() for _ in range(2)), nn.Linear(8, 3)

    def forward(self, h, g):
        for layer in self.layers:
            h, g = layer(h, g)
        return self.head(g)


@pytest.mark.parametrize("mode", ["train", "eval"])
def test_two_towers_that_take_turns_draw_what_the_plain_model_draws(mode):
    plain, inputs = TwoStreams().train(mode == "train"), (torch.randn(2, 5, 8), torch.randn(2, 1, 8))
    hyper = mhc_compile.transform(plain, n=2, example_inputs=inputs, modes=(mode,))
    assert len(hyper.mhc_plan.sites) == 6  # what the last layer makes of h reaches no output
    torch.manual_seed(0)
    expected = plain(*inputs)
    torch.manual_seed(0)
    assert_close(hyper(*inputs), expected)
