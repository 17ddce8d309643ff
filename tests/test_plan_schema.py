from __future__ import annotations

import json
import re
from pathlib import Path
from typing import Any

import pytest

from mhc_compile.passes.plan.data import SCHEMA_VERSION
from mhc_compile.passes.plan.reasons import Reason
from mhc_compile.passes.plan.steps import StepKind, Unfused
from tests import hand_plans as hand

DOCUMENT = (Path(__file__).parents[1] / "docs" / "plan_schema.md").read_text(encoding="utf-8")


def documented(section: str) -> set[str]:
    body = DOCUMENT.split(f"\n## {section}\n")[1].split("\n## ")[0]
    return set(re.findall(r"^\| `([a-z_]+)` \| [^|]+ \| [^|]+ \|$", body, re.M))


def written() -> dict[str, Any]:
    chain = hand.transformer(2)
    segment = hand.segment(0, chain, readouts=(hand.readout(chain[-1], "norm", parameters=1000),))
    return json.loads(hand.plan([chain], (hand.rejection("mask"),), segments=(segment,)).to_json())


@pytest.mark.parametrize("section", ["Plan", "Site", "Rejection", "Segment", "Readout", "Step", "Totals"])
def test_every_field_is_documented_and_every_documented_field_is_written(section: str) -> None:
    plan = written()
    objects = {
        "Plan": plan,
        "Site": plan["sites"][0],
        "Rejection": plan["rejected"][0],
        "Segment": plan["segments"][0],
        "Readout": plan["segments"][0]["readouts"][0],
        "Step": plan["steps"][0],
        "Totals": plan["totals"],
    }
    assert documented(section) == set(objects[section])


def test_every_reason_is_documented_with_its_sentence() -> None:
    rows = dict(re.findall(r"^\| `([A-Z_]+)` \| ([^|]+) \|$", DOCUMENT, re.M))
    assert rows == {entry.name: entry.value for enum in (Reason, StepKind, Unfused) for entry in enum}


def test_the_version_is_documented() -> None:
    assert f"**Version {SCHEMA_VERSION}.**" in DOCUMENT and written()["schema_version"] == SCHEMA_VERSION


def test_totals_follow_from_the_rest() -> None:
    plan = written()
    readouts = [readout for segment in plan["segments"] for readout in segment["readouts"]]
    assert {readout["parameters"] for readout in readouts} != {0}
    assert plan["totals"]["parameters"] == sum(part["parameters"] for part in plan["sites"] + readouts)
    assert plan["float_adds"] == sum(len(part["adds"]) for part in plan["sites"] + plan["rejected"])
