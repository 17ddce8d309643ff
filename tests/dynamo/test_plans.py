"""Plans of several graphs of one model: keys, globs, refusals."""

from __future__ import annotations

import pytest

import mhc_compile
from mhc_compile.config import Config
from mhc_compile.dynamo.frame import Origin
from mhc_compile.dynamo.plans import check_cut
from mhc_compile.errors import DDPOptimizerError, GraphBreakError
from tests.dynamo.breaking import HALVES, Halves, made
from tests.dynamo.towers import inputs, tower


def keys_of(**options: object) -> list[str]:
    backend = mhc_compile.backend(inner="eager", **options)
    model = made(Halves)
    backend.attach(model, (inputs(),))
    return list(model.hyper_connections)


def test_a_glob_needs_to_match_in_one_of_the_graphs_only() -> None:
    assert keys_of(include=["front.*"]) == ["front.0", "front.1"]
    assert keys_of(exclude=["back.*"]) == [key for key in HALVES if not key.startswith("back")]


def test_uses_of_a_module_are_numbered_on_behind_a_break() -> None:
    assert keys_of(include=["shared*"]) == ["shared", "shared#2"]
    assert keys_of(exclude=["shared"])[2] == "shared#2", "leaving one use out does not rename the other"


def test_excluded_sites_are_reported() -> None:
    backend = mhc_compile.backend(exclude=["blocks.1"])
    (record,) = backend.explain(tower(), inputs()).graphs
    assert record.left_out == ["blocks.1"]


def test_min_sites_counts_within_a_graph() -> None:
    model = made(Halves)
    records = mhc_compile.backend(min_sites=4).explain(model, inputs()).graphs
    assert [len(record.plan.sites) for record in records] == [0, 0]
    assert len(mhc_compile.backend(min_sites=4).explain(model.eval(), inputs()).sites) == 6


def test_a_cut_of_ddp_optimizer_is_refused_always_and_a_break_under_strict() -> None:
    cut = Origin("f.py:forward", "f.py:forward", False, "DDPOptimizer intentional graph-break", "x:0")
    broken = Origin("f.py:forward", "f.py:forward", False, "print", "f.py:3")
    behind = Origin("f.py:torch_dynamo_resume_in_forward_at_3", "f.py:forward", True)
    for strict in (False, True):
        with pytest.raises(DDPOptimizerError, match="bucket_cap_mb"):
            check_cut(cut, Config(strict=strict))
    for origin in (broken, behind):
        check_cut(origin, Config())
        with pytest.raises(GraphBreakError, match="strict=False"):
            check_cut(origin, Config(strict=True))
    assert behind.resumed and not broken.resumed
    check_cut(Origin("f.py:forward", "f.py:forward"), Config(strict=True))
