from __future__ import annotations

import pytest

from mhc_compile.passes.plan.moved import Move, moved_plan
from tests.hand_plans import plan, rejection, transformer

PLAN = plan([transformer(2)], (rejection("add"),))


@pytest.mark.parametrize(
    ("move", "pairs"),
    [
        (Move(), {"layers.0": "layers.0", "site": "site"}),
        (Move(inside="model"), {"model.a.mlp#2": "a.mlp#2", "modeling.x": None, "model": "site", "model#2": "site#2"}),
        (Move(under="model"), {"layers.0.mlp": "model.layers.0.mlp", "site": "model", "site#2": "model#2"}),
    ],
)
def test_keys_follow_the_paths_of_modules(move, pairs):
    assert {key: move.key(key) for key in pairs} == pairs


@pytest.mark.parametrize(
    ("move", "pairs"),
    [
        (Move(inside="model"), {"model.readout": "site.readout", "model#2.readout": "site#2.readout"}),
        (Move(under="model"), {"site.readout": "model.readout", "a.readout#2": "model.a.readout#2"}),
    ],
)
def test_readouts_are_named_after_their_sites(move, pairs):
    assert {key: move.readout(key) for key in pairs} == pairs


def test_there_and_back_a_plan_is_the_same():
    moved = moved_plan(PLAN, Move(under="model"), lambda site: True)
    there = moved.plan
    assert set(moved.former.values()) >= {site.key for site in PLAN.sites}
    assert all(site.key.startswith("model.") for site in there.sites)
    assert {w.partition(".")[0] for site in there.sites for w in site.weights} == {"model"}
    assert moved_plan(there, Move(inside="model"), lambda site: True).plan == PLAN


def test_sites_that_are_not_kept_leave_segments_and_steps():
    gone = PLAN.sites[0].key
    kept = moved_plan(PLAN, Move(), lambda site: site.key != gone).plan
    assert [site.key for site in kept.sites] == [site.key for site in PLAN.sites[1:]]
    named = {key for segment in kept.segments for key in segment.sites}
    named |= {key for step in kept.steps for key in (step.writes, step.gates)} | {site.before for site in kept.sites}
    assert gone not in named and len(kept.steps) < len(PLAN.steps)
