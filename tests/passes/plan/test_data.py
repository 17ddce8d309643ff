from __future__ import annotations

import dataclasses
import json
import pickle

import pytest

from mhc_compile.passes.plan.data import SCHEMA_VERSION
from mhc_compile.passes.plan.reasons import Reason
from tests.passes.graphs import plan_of
from tests.passes.shapes import SHAPES


@pytest.fixture(scope="module")
def plan():
    model, inputs = SHAPES["resnet stage"].make()
    return plan_of(model, *inputs)


def test_a_plan_is_data(plan):
    assert pickle.loads(pickle.dumps(plan)) == plan
    with pytest.raises(dataclasses.FrozenInstanceError):
        plan.n = 2


def test_site_by_key(plan):
    assert plan.site("f1.0") is plan.sites[0]
    with pytest.raises(KeyError):
        plan.site("f0")


def test_json_holds_everything_with_names_for_reasons(plan):
    read = json.loads(plan.to_json())
    assert read["schema_version"] == SCHEMA_VERSION and read["n"] == 4
    assert [s["key"] for s in read["sites"]] == ["f1.0", "f2.0"]
    assert read["sites"][0]["branch_nodes"] == sorted(plan.sites[0].branch_nodes)
    (rejection,) = read["rejected"]
    assert rejection["reason"] == "PROJECTED_SHORTCUT" and rejection["sentence"] == Reason.PROJECTED_SHORTCUT.value
    assert read["totals"] == {"sites": 2, "rejected": 1, "float_adds": 3, "segments": 1, "nodes": plan.nodes,
                              "parameters": plan.parameters}  # fmt: skip


def test_text_names_every_site_and_every_reason(plan):
    text = str(plan)
    assert text.startswith("2 sites in 1 segments, 1 other adds")
    assert all(s.key in text for s in plan.sites) and all(r.reason.value in text for r in plan.rejected)


def test_parameters_are_those_of_sites_and_readouts():
    model, inputs = SHAPES["resnet stage"].make()
    learned = plan_of(model, *inputs, reduce="learned")
    readouts = [r.parameters for s in learned.segments for r in s.readouts]
    assert all(readouts) and learned.parameters == sum(s.parameters for s in learned.sites) + sum(readouts)
