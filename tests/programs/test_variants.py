"""Kinds of calls that reach other sites than the example inputs."""

from __future__ import annotations

import warnings

import pytest
import torch
from torch import nn

import mhc_compile
from mhc_compile.errors import MissingSitesWarning
from tests.moved import move
from tests.zoo.test_doors import Block

X = torch.randn(3, 5, 8)


class Encoded(nn.Module):
    """An encoder, whose result may be given, and a decoder, of which one call leaves out the residual connection."""

    def __init__(self):
        super().__init__()
        self.encoder, self.middle, self.decoder = Block(), nn.Linear(8, 8), Block()

    def forward(self, x, encoded=None, skip=True):
        encoded = self.encoder(x) if encoded is None else encoded
        middle = self.middle(encoded)
        return self.decoder(middle) if skip else self.decoder.down(self.decoder.up(middle))


@pytest.fixture
def hyper():
    return mhc_compile.transform(Encoded().eval(), n=2, example_inputs=(X,), modes=("eval",))


def test_sites_that_a_call_does_not_run_are_not_called_plain(hyper):
    with warnings.catch_warnings():
        warnings.simplefilter("error", MissingSitesWarning)
        torch.testing.assert_close(hyper(X, encoded=hyper.encoder(X)), hyper(X))


def test_sites_that_a_call_runs_plain_are_named(hyper):
    with pytest.warns(MissingSitesWarning, match=r"1 of 2 residual connections plain \(decoder\)"):
        hyper(X, skip=False)
    with pytest.warns(MissingSitesWarning, match=r"1 of 1 residual connections plain \(decoder\)"):
        hyper(X, encoded=X, skip=False)


class Shared(nn.Module):
    """A block whose turns have norms, or scales, of their own."""

    def __init__(self, scaled):
        super().__init__()
        self.block, self.scaled, self.turns = nn.Linear(8, 8), scaled, (0, 1, 2, 3)
        self.norms = nn.ModuleList(nn.LayerNorm(8) for _ in self.turns)
        self.scales = nn.Parameter(torch.ones(4, 8))

    def forward(self, x):
        for i in self.turns:
            x = x + (self.block(x).tanh() * self.scales[i] if self.scaled else self.block(self.norms[i](x)))
        return x


@pytest.mark.parametrize("scaled", [False, True])
def test_turns_that_are_left_out_or_change_places_have_the_coefficients_that_are_theirs(scaled):
    model = Shared(scaled)
    hyper = move(mhc_compile.transform(model, n=2, example_inputs=(X,), modes=("train",)))
    model.turns = hyper.turns = (3, 1)
    fresh = mhc_compile.transform(model, n=2, example_inputs=(X,), modes=("train",))
    state = hyper.state_dict()
    fresh.load_state_dict({name: state[name] for name in fresh.state_dict()})
    with pytest.warns(MissingSitesWarning):
        torch.testing.assert_close(hyper(X), fresh(X))
