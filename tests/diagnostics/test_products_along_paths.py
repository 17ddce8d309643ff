"""Products of mixing matrices along the streams: forks, moved tokens, several models, stages, several graphs."""

from __future__ import annotations

import pytest
import torch
from torch import nn

import mhc_compile
from tests.diagnostics.hand import EXPLODING, IDENTITY, set_mixing, tower
from tests.diagnostics.known import KEYS
from tests.toy_models import WIDTH, Block


class Fork(nn.Module):
    """A trunk, and two towers on it."""

    def __init__(self) -> None:
        super().__init__()
        self.trunk, self.left, self.right = Block(), nn.Sequential(Block(), Block()), Block()

    def forward(self, x):
        x = self.trunk(x * 1.0)
        return self.left(x).mean() + self.right(x).square().mean()


def test_towers_on_one_trunk_are_products_of_their_own():
    x = torch.randn(2, 3, WIDTH, dtype=torch.float64)
    options = {"connection": "hc-static", "modes": ("train",)}
    model = mhc_compile.transform(Fork().double(), example_inputs=(x,), **options)
    set_mixing(model, {"trunk": EXPLODING, "left.0": EXPLODING, "left.1": EXPLODING, "right": IDENTITY})
    found = mhc_compile.diagnose(model, x)
    assert {s.key: s.before for s in found.sites} == {
        "trunk": "", "left.0": "trunk", "left.1": "left.0", "right": "trunk",
    }  # fmt: skip
    forward = {s.key: s.composite_forward for s in found.sites}
    assert forward == pytest.approx({"trunk": 1.5, "left.0": 2.25, "left.1": 3.375, "right": 1.5}, abs=1e-6)
    assert found.site("trunk").composite_backward == pytest.approx(3.375, abs=1e-6)
    assert found.site("right").composite_backward == pytest.approx(1, abs=1e-6)


class Rolled(nn.Module):
    """Tokens change places between two blocks."""

    def __init__(self) -> None:
        super().__init__()
        self.first, self.second, self.third = Block(), Block(), Block()

    def forward(self, x):
        return self.third(self.second(self.first(x * 1.0).roll(1, 1)))


def test_the_figures_say_where_products_go_on_with_means():
    x = torch.randn(2, 3, WIDTH, dtype=torch.float64)
    options = {"connection": "hc-static", "modes": ("train",)}
    model = mhc_compile.transform(Rolled().double(), example_inputs=(x,), **options)
    set_mixing(model, dict.fromkeys(("first", "second", "third"), EXPLODING))
    found = mhc_compile.diagnose(model, x)
    assert [(s.before, s.aligned) for s in found.sites] == [("", True), ("first", False), ("second", True)]
    assert [s.composite_forward for s in found.sites] == pytest.approx([1.5, 2.25, 3.375], abs=1e-6)


class Wrapping(nn.Module):
    """Two models in one, as a distillation has them."""

    def __init__(self, first: nn.Module, second: nn.Module) -> None:
        super().__init__()
        self.first, self.second = first, second

    def forward(self, x):
        return self.first(x) + self.second(x)


def test_several_models_in_a_module_are_told_apart():
    (first, x), (second, _) = tower(2), tower(2)
    set_mixing(second, {"blocks.0": EXPLODING})
    found = mhc_compile.diagnose(Wrapping(first, second), x)
    assert [s.key for s in found.sites] == ["first.blocks.0", "first.blocks.1", "second.blocks.0", "second.blocks.1"]
    assert [s.index for s in found.segments] == [0, 1]
    assert found.site("second.blocks.0").gain_forward == pytest.approx(1.5, abs=1e-6)


class Row(nn.Module):
    """Four blocks that share nothing."""

    def __init__(self) -> None:
        super().__init__()
        self.blocks = nn.ModuleList(Block() for _ in range(4))

    def forward(self, x):
        x = x * 1.0
        for block in self.blocks:
            x = block(x)
        return x


def test_a_stage_of_a_pipeline_is_looked_at_by_itself():
    x = torch.randn(2, 3, WIDTH, dtype=torch.float64)
    options = {"connection": "hc-static", "modes": ("train",)}
    model = mhc_compile.transform(Row().double(), example_inputs=(x,), **options)
    set_mixing(model, dict.fromkeys(KEYS, EXPLODING))
    first, second = mhc_compile.pipeline.split(model, ["blocks.2"], example_inputs=(x,), modes=("train",))
    with torch.no_grad():
        streams_between = first(x)
    for stage, given, keys in ((first, x, KEYS[:2]), (second, streams_between, KEYS[2:])):
        found = mhc_compile.diagnose(stage, given)
        assert [s.key for s in found.sites] == keys and found.sites[0].before == ""
        assert [s.composite_forward for s in found.sites] == pytest.approx([1.5, 2.25], abs=1e-6)


class Breaking(nn.Module):
    """No one graph: the second half depends on a value."""

    def __init__(self) -> None:
        super().__init__()
        self.blocks = nn.Sequential(*(Block() for _ in range(4)))

    def forward(self, x):
        x = self.blocks[1](self.blocks[0](x * 1.0))
        if x.sum() > 1e9:
            x = -x
        return self.blocks[3](self.blocks[2](x))


@pytest.mark.exhaustive  # the same inner backend as behind `mhc_compile.backend`
@pytest.mark.filterwarnings("ignore::UserWarning")
def test_a_call_in_several_graphs_is_seen_graph_by_graph():
    x = torch.randn(2, 3, WIDTH, dtype=torch.float64)
    model = mhc_compile.transform(Breaking().double(), example_inputs=(x,), connection="hc-static", modes=("train",))
    set_mixing(model, dict.fromkeys(KEYS, EXPLODING))
    found = mhc_compile.diagnose(model, x)
    assert [s.key for s in found.sites] == KEYS
    assert [s.composite_forward for s in found.sites] == pytest.approx([1.5, 2.25, 1.5, 2.25], abs=1e-6)
