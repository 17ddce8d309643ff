"""Forwards with effects, state, chance or control flow: such calls go through Dynamo and keep their meaning."""

from __future__ import annotations

import random
import warnings

import numpy as np
import pytest
import torch
from torch import Tensor, nn
from torch.testing import assert_close

import mhc_compile
from mhc_compile.dynamo.alone import RECOMPILE_LIMIT
from mhc_compile.errors import FallbackWarning, GraphBreakError, RecompilationWarning, UncompiledCodeWarning
from tests.moved import Net, X, moved, net, programs
from tests.toy_models import Block


class Counting(Net):
    def __init__(self) -> None:
        super().__init__()
        self.steps, self.warmth, self.last = 0, 1.0, None

    def forward(self, x: Tensor) -> Tensor:
        self.steps += 1
        self.warmth *= 0.9
        y = super().forward(x)
        self.last = y.square().mean()
        return y


def test_counters_and_numbers_that_decay_are_kept_and_never_make_it_run_plain():
    t = net(Counting)
    want = t(X)
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        for _ in range(RECOMPILE_LIMIT + 6):
            assert_close(t(X), want)
    assert (t.steps, programs(t)) == (RECOMPILE_LIMIT + 7, 0)
    assert t.warmth == pytest.approx(0.9**t.steps)


def test_a_loss_that_is_kept_has_a_gradient_for_the_new_parameters():
    t = net(Counting)
    t(X)
    t.last.backward()
    assert all(p.grad is not None for p in t.hyper_connections.parameters())


class Listing(Block):
    def __init__(self) -> None:
        super().__init__()
        self.seen: list[Tensor] = []

    def forward(self, x: Tensor) -> Tensor:
        y = super().forward(x)
        self.seen.append(y.mean())
        return y


class ListingNet(Net):
    block = Listing


def test_lists_that_blocks_append_to_are_filled_at_every_call():
    t = moved(ListingNet())
    means = []
    for _ in range(2):
        t(X)
        means.append([block.seen[0].item() for block in t.blocks])
        for block in t.blocks:
            assert len(block.seen) == 1
            block.seen.clear()
    assert means[0] == means[1]


def test_a_list_that_only_grows_is_told_of_and_never_makes_it_run_plain(monkeypatch):
    for place in ("dynamo.alone", "model.fallback"):  # what Dynamo is told, and what is counted up to
        monkeypatch.setattr(f"mhc_compile.{place}.RECOMPILE_LIMIT", 5)
    monkeypatch.setattr("mhc_compile.model.fallback.OFTEN", 2)
    t = moved(ListingNet())
    want = t(X)
    with pytest.warns(RecompilationWarning, match=r"blocks\.0\.seen, blocks\.1\.seen grow") as caught:
        for _ in range(7):
            assert_close(t(X), want)
    assert sum(issubclass(w.category, RecompilationWarning) for w in caught) == 1
    assert len(t.blocks[0].seen) == 8


class Streaming(Net):
    def __init__(self) -> None:
        super().__init__()
        self.state: Tensor | float = 0.0

    def forward(self, x: Tensor) -> Tensor:
        self.state = 0.5 * self.state + super().forward(x)
        return self.state


def test_state_in_an_attribute_goes_from_call_to_call():
    t = moved(Streaming())
    first = t(X)
    assert_close(t(X), 1.5 * first)
    assert_close(t(X), 1.75 * first)


def test_vectors_that_a_norm_of_weights_iterates_move_in_training():
    model = Net().train()
    nn.utils.parametrizations.spectral_norm(model.blocks[0].up)
    t = moved(model)
    before = t.blocks[0].up.parametrizations.weight[0]._u.clone()
    t(X)
    assert not torch.equal(before, t.blocks[0].up.parametrizations.weight[0]._u)


class Deciding(Net):
    def forward(self, x: Tensor) -> Tensor:
        y = super().forward(x)
        return y if y.sum() > 1e6 else 3 * y


def test_an_array_of_numpy_is_read_at_each_call():
    class Scaled(Net):
        def __init__(self) -> None:
            super().__init__()
            self.scale = np.ones(1, dtype=np.float32)

        def forward(self, x: Tensor) -> Tensor:
            return super().forward(x) * torch.from_numpy(self.scale)

    t = moved(Scaled())
    before = t(X)
    t.scale[0] = 3.0
    assert_close(t(X), 3 * before)


def test_control_flow_on_values_breaks_the_graph_with_a_warning_and_is_an_error_under_strict():
    t = moved(Deciding())
    with pytest.warns(FallbackWarning, match="it breaks at"):
        found = t(X)
    with warnings.catch_warnings():
        warnings.simplefilter("error")  # said once
        assert_close(t(X), found)
    with pytest.raises(GraphBreakError):
        mhc_compile.transform(Deciding(), example_inputs=(X,), strict=True)


def test_what_is_written_in_a_kind_of_call_that_comes_later_is_written():
    class Counting(Net):
        count = 0

        def forward(self, x):
            if self.training:
                self.count += 1
            return super().forward(x)

    t = moved(Counting().eval(), modes=("eval",)).train()
    for _ in range(2):
        t(X)
    assert t.count == 2


class Allowed(Block):
    """As layers of diffusers are: `maybe_allow_in_graph`, where torch is old enough."""

    def forward(self, x: Tensor) -> Tensor:
        return super().forward(x)


def test_a_class_that_dynamo_may_take_as_an_operator_has_its_sites_where_a_call_breaks():
    class Breaks(Net):
        block = torch._dynamo.allow_in_graph(Allowed)

        def forward(self, x: Tensor) -> Tensor:
            y = super().forward(x)
            torch._dynamo.graph_break()
            return y

    with pytest.warns(FallbackWarning, match="it breaks at .*test_fallback.py"):
        t = moved(Breaks())
        t(X)
    whole = moved(Net())
    whole.load_state_dict(t.state_dict())
    assert_close(t(X), whole(X))


def test_a_later_kind_of_call_without_any_graph_says_that_it_runs_plain():
    class Dropping(nn.Module):
        def __init__(self):
            super().__init__()
            self.layers = nn.ModuleList(nn.Linear(X.shape[-1], X.shape[-1]) for _ in range(2))

        def forward(self, x):
            for layer in self.layers:
                # Always true, which Dynamo does not know: no layer runs, and no graph is made.
                if not (self.training and random.random() < 1.0):
                    x = x + layer(x)
            return x

    t = moved(Dropping().eval(), modes=("eval",)).train()
    with pytest.warns(UncompiledCodeWarning, match="runs without hyper-connections"):
        t(X)
