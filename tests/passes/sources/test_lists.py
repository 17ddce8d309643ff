"""Which sources a plan gives to each site and readout, and what it says of them."""

from __future__ import annotations

import json

import pytest
import torch
from torch import Tensor, nn

from mhc_compile.passes.plan.from_json import plan_from_dict
from tests.passes.graphs import plan_of
from tests.passes.layers import tokens
from tests.toy_models import Block


class Layer(nn.Module):
    """Two residual adds."""

    def __init__(self) -> None:
        super().__init__()
        self.attn, self.mlp = Block(), Block()

    def forward(self, x: Tensor) -> Tensor:
        return self.mlp(self.attn(x))


def plan(connection: str, layers: int = 3):
    return plan_of(nn.Sequential(*(Layer() for _ in range(layers))).double(), tokens(), connection=connection)


@pytest.mark.parametrize(
    ("connection", "expected", "readout"),
    [
        ("attention", [1, 2, 2, 3, 3, 4], 4),  # two sites are a layer: the sum of each is kept
        ("attention:layers=2", [1, 2, 2, 2, 2, 3], 3),
        ("attention:layers=9", [1, 2, 2, 2, 2, 2], 2),
        ("dense", [1, 2, 3, 4, 5, 6], 7),
        ("dense:layers=1", [1, 1, 2, 1, 3, 1], 4),  # a layer mixes once
    ],
)
def test_lists_grow_with_blocks_and_not_with_sites(connection, expected, readout):
    found = plan(connection)
    assert [len(site.sources) for site in found.sites] == expected
    (segment,) = found.segments
    assert [len(r.sources) for r in segment.readouts] == [readout]
    assert found.longest_list(segment) == max(*expected, readout)
    blocks = sum(site.begins_block for site in found.sites)
    assert f"segment 0 keeps up to {readout} sources, of 6 sites in {blocks} blocks" in found.notes


def test_the_newest_source_stands_last_and_the_first_is_the_entry():
    found = plan("attention")
    adds = [site.add for site in found.sites]
    assert found.sites[0].sources == (found.segments[0].entry,)
    assert found.sites[4].sources == (found.segments[0].entry, adds[1], adds[3])
    assert [site.begins_block for site in found.sites] == [True, False] * 3


def test_parameters_follow_from_the_number_of_sources():
    assert [site.parameters for site in plan("attention").sites] == [0, 8, 8, 8, 8, 8]
    found = plan("dense:rank=2")
    assert [site.parameters for site in found.sites] == [0, *(k + 2 * 8 + 2 * k for k in range(2, 7))]
    (readout,) = found.segments[0].readouts
    assert found.parameters == sum(site.parameters for site in found.sites) + readout.parameters
    assert readout.parameters == 7 + 2 * 8 + 2 * 7


def test_what_is_done_to_the_stream_is_done_to_the_sum_that_goes_on():
    class PostNorm(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.f = nn.ModuleList(nn.Linear(8, 8) for _ in range(3))
            self.norm = nn.ModuleList(nn.LayerNorm(8) for _ in range(3))

        def forward(self, x: Tensor) -> Tensor:
            for f, norm in zip(self.f, self.norm, strict=True):
                x = norm(x + torch.tanh(f(x)))
            return x

    found = plan_of(PostNorm().double(), tokens(), connection="dense")
    norms = found.segments[0].lifts
    assert found.sites[2].sources == (found.segments[0].entry, *norms[:2])


def test_a_plan_says_what_it_does_not_keep_and_comes_back_from_json():
    found = plan("attention")
    assert any("starts as another function, for training from scratch" in note for note in found.notes)
    assert not any("function" in note for note in plan("dense").notes)
    assert found.n == 1 and found.over_sources and not plan("mhc").over_sources
    assert plan_from_dict(json.loads(found.to_json())) == found
