"""Blocks and layers that are called by themselves: with their sites, their hooks, and what they read."""

from __future__ import annotations

import warnings

import pytest
import torch
from torch import Tensor, nn
from torch.testing import assert_close

import mhc_compile
from mhc_compile.errors import DetachedModuleWarning, StreamsCutWarning
from tests.moved import Net, X, moved, net, programs


def test_blocks_in_a_loop_are_cut_with_one_warning_that_names_a_module():
    t = net()
    with pytest.warns(StreamsCutWarning, match=r"blocks\.0 is called by itself and holds 1 of the 2 sites"):
        x = t.blocks[0](X)
    plain = mhc_compile.revert(t)
    assert not torch.allclose(x, plain.blocks[0](X))
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        assert_close(t.blocks[0](X), x)


def test_a_module_without_sites_inside_computes_what_it_always_did():
    t = net()
    assert torch.equal(t.blocks[0].up(X), mhc_compile.revert(t).blocks[0].up(X))
    assert programs(t, "blocks.0.up") == 0


class Staged(Net):
    """Its stem has a part of its own."""

    def __init__(self) -> None:
        super().__init__()
        self.stem = nn.Sequential(self.stem)


@pytest.mark.parametrize("with_kwargs", [False, True])
def test_hooks_that_were_there_fire_in_a_module_without_sites_that_is_called_from_outside(with_kwargs):
    model = Staged()
    before = (lambda m, args, kwargs: ((args[0] + 1,), kwargs)) if with_kwargs else lambda m, args: args[0] + 1
    after = (lambda m, args, kwargs, out: 2 * out) if with_kwargs else lambda m, args, out: 2 * out
    model.stem.register_forward_pre_hook(before, with_kwargs=with_kwargs)
    model.stem[0].register_forward_hook(after, with_kwargs=with_kwargs)
    want = model.stem(X)
    t = moved(model)
    assert_close(t.stem(X), want)
    assert_close(mhc_compile.revert(t).stem(X), want)
    inside: list[Tensor] = []
    t.blocks[0].register_forward_pre_hook(lambda module, args: inside.append(args[0].detach()))
    t(X)
    assert_close(inside, [want.detach()])  # in generated code they are once, too


@pytest.mark.filterwarnings("ignore::mhc_compile.errors.StreamsCutWarning")
def test_what_a_part_reads_is_never_stale_behind_its_door():
    t = net()
    before = t.blocks[0](X)
    t.blocks[0].drop.p = 1.0
    assert not torch.allclose(t.blocks[0](X), before)
    t.blocks[0].drop.p = 0.0
    assert_close(t.blocks[0](X), before)
    assert programs(t, "blocks.0") == 2


@pytest.mark.filterwarnings("ignore::mhc_compile.errors.StreamsCutWarning")
def test_blocks_that_change_places_stay_doors():
    t = net()
    first, second = t.blocks
    t.blocks[0], t.blocks[1] = second, first
    with warnings.catch_warnings():
        warnings.simplefilter("error", DetachedModuleWarning)
        assert not torch.allclose(first(X), mhc_compile.revert(t).blocks[1](X))


@pytest.mark.filterwarnings("ignore::mhc_compile.errors.StreamsCutWarning")
def test_a_module_with_two_names_is_the_same_through_both():
    class Shared(Net):
        def __init__(self) -> None:
            super().__init__()
            self.again = self.blocks[0]

        def forward(self, x: Tensor) -> Tensor:
            return super().forward(self.again(x))

    t = moved(Shared())
    with warnings.catch_warnings():
        warnings.simplefilter("error", mhc_compile.errors.MissingSitesWarning)
        assert t.again is t.blocks[0]
        t.again(X)
