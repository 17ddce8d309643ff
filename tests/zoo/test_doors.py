"""The checks of modules that are called from outside, with doors that behave and with some that do not."""

from __future__ import annotations

import pytest
import torch
from torch import nn

from mhc_compile.model import doors
from mhc_compile.twin.hosts import original_forward, plain_calls
from tests.zoo.doors import check_doors


class Block(nn.Module):
    def __init__(self):
        super().__init__()
        self.norm, self.up, self.down = nn.LayerNorm(8), nn.Linear(8, 16), nn.Linear(16, 8)

    def forward(self, x):
        return x + self.down(torch.relu(self.up(self.norm(x))))


class Net(nn.Module):
    def __init__(self):
        super().__init__()
        self.stem, self.head = nn.Linear(8, 8), nn.Linear(8, 4)
        self.blocks = nn.Sequential(Block(), Block())

    def forward_features(self, x):
        return self.blocks(self.stem(x))

    def forward_head(self, x):
        return self.head(x)

    def forward(self, x):
        return self.forward_head(self.forward_features(x))


class InALoop(Net):
    def forward_features(self, x):
        x = self.stem(x)
        for block in self.blocks:
            x = block(x)
        return x


def checked(kind=Net):
    def build(target):
        torch.manual_seed(0)
        return kind().eval(), (torch.randn(3, 5, 8),), {}

    return check_doors("fake", build)


def test_doors_that_give_what_the_module_computes_inside_pass():
    result = checked()
    assert result.passed and not result.notes, result.failure
    assert result.ways == {"blocks": "one graph", "forward_features": "one graph"}


def test_loops_over_parts_of_a_segment_are_noted():
    result = checked(InALoop)
    cut = "a part of a segment is called alone, which is said to cut it"
    assert result.passed and result.notes == (f"blocks: {cut}", f"forward_features: {cut}"), result.failure


def test_a_stream_that_is_given_twice_is_read_in_both_places():
    class Twice(Net):
        def __init__(self):
            super().__init__()
            self.blocks = nn.ModuleList((Attends(),))

        def forward_features(self, x):
            x = self.stem(x)
            return self.blocks[0](x, x)

    class Attends(Block):
        def forward(self, query, key):
            return query + self.down(torch.relu(self.up(query * key)))

    result = checked(Twice)
    assert result.passed and not result.notes, result.failure
    assert result.ways == {"blocks.0": "one graph", "forward_features": "one graph"}


def plain(self, module, args, kwargs):
    with plain_calls():
        return original_forward(module)(module, *args, **kwargs)


def changed(self, module, args, kwargs):
    return 2 * enter(self, module, args, kwargs)


enter = doors.ModuleDoor.enter


@pytest.mark.parametrize(
    ("fault", "message"),
    [(plain, "blocks: neither a program nor Dynamo"), (changed, "blocks: called from outside, the result differs")],
)
def test_doors_that_give_something_else_fail(fault, message, monkeypatch):
    monkeypatch.setattr(doors.ModuleDoor, "enter", fault)
    assert message in checked().failure


def test_a_model_without_sites_has_nothing_to_check():
    class Plain(nn.Module):
        def __init__(self):
            super().__init__()
            self.linear = nn.Linear(8, 8)

        def forward(self, x):
            return self.linear(x)

    assert checked(Plain).notes == ("no sites",)


def test_layers_that_start_at_zero_and_random_choices_hide_nothing():
    class Sleeps(Net):
        def __init__(self):
            super().__init__()
            nn.init.zeros_(self.head.weight)

        def forward_head(self, x):
            return self.head(x[:, torch.randperm(x.shape[1])[:1]])

    result = checked(Sleeps)
    assert result.passed and result.ways["blocks"] == "one graph", result.failure


def test_a_result_that_the_noise_does_not_reach_is_no_proof():
    class Ends(Net):
        def forward_head(self, x):
            return self.head(x) * 0

    assert "the noise changes the result by 0e+00 only" in checked(Ends).failure
