from __future__ import annotations

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from mhc_compile.report.collapse import collapse, fold_blocks, label, singles, spell
from tests import hand_plans as hand


@pytest.mark.parametrize(
    ("numbers", "text"),
    [
        ([7], "7"),
        ([0, 1, 2, 3], "{0..3}"),
        ([0, 2, 4], "{0,2,4}"),
        ([0, 2, 4, 6, 8], "{0,2,..,8}"),
        ([0, 1, 2, 5], "{0..2,5}"),
    ],
)
def test_numbers_are_spelled_in_braces(numbers: list[int], text: str) -> None:
    assert spell(numbers) == text


def test_keys_that_form_a_grid_get_one_label() -> None:
    assert label(["a.0.b.0", "a.0.b.1", "a.1.b.0", "a.1.b.1"]) == "a.{0..1}.b.{0..1}"


def test_keys_that_form_no_grid_are_named_by_their_ends() -> None:
    assert label(["a.0.b.0", "a.1.b.1"]) == "a.0.b.0 … a.1.b.1"


def test_repeated_uses_of_one_module_are_one_group() -> None:
    keys = ["layer.attn", "layer.attn#2", "layer.attn#3"]
    assert [g.label for g in collapse([hand.site(k, k) for k in keys])] == ["layer.attn#{1..3}"]


def test_a_single_key_is_its_own_label() -> None:
    assert label(["layer.attn"]) == "layer.attn"
    assert label(["layer.attn#2"]) == "layer.attn#2"


def test_layers_collapse_by_role() -> None:
    groups = collapse(hand.transformer(80))
    assert [(g.label, len(g.sites)) for g in groups] == [("blocks.{0..79}.attn", 80), ("blocks.{0..79}.mlp", 80)]


@pytest.mark.parametrize("change", [{"kind": "parallel"}, {"shape": (1, 2)}, {"parameters": 1}, {"location": "x.py:1"}])
def test_sites_that_look_different_stay_apart(change: dict[str, object]) -> None:
    assert len(collapse([hand.site("a.0", "x"), hand.site("a.1", "y", **change)])) == 2


def test_a_ragged_grid_is_split_into_exact_labels() -> None:
    sites = [hand.site(key, key) for key in ("s.0.b.0", "s.0.b.1", "s.1.b.0")]
    assert [g.label for g in collapse(sites)] == ["s.0.b.{0..1}", "s.1.b.0"]


@settings(max_examples=60, deadline=None)
@given(st.sets(st.tuples(st.integers(0, 3), st.integers(0, 3)), min_size=1))
def test_collapsing_loses_no_site_and_no_parameter(numbers: set[tuple[int, int]]) -> None:
    sites = [hand.site(f"s{a}.b.{b}", f"add_{a}_{b}") for a, b in sorted(numbers)]
    groups = collapse(sites)
    assert sorted(s.key for g in groups for s in g.sites) == sorted(s.key for s in sites)
    assert sum(g.parameters for g in groups) == sum(s.parameters for s in sites)
    assert all("…" not in g.label for g in groups)


@settings(max_examples=60, deadline=None)
@given(st.lists(st.sampled_from(["attn", "mlp", "conv"]), max_size=24))
def test_blocks_keep_every_site_in_order(roles: list[str]) -> None:
    sites = [hand.site(f"l.{i}.{role}", f"add_{i}") for i, role in enumerate(roles)]
    blocks = fold_blocks(sites)
    unrolled = [g.sites[i].key for b in blocks for i in range(b.count) for g in b.groups]
    assert unrolled == [s.key for s in sites]


def test_alternating_sites_fold_into_one_block() -> None:
    (block,) = fold_blocks(hand.transformer(12))
    assert block.count == 12
    assert [g.label for g in block.groups] == ["blocks.{0..11}.attn", "blocks.{0..11}.mlp"]


def test_singles_collapse_nothing() -> None:
    assert [g.label for g in singles(hand.transformer(1))] == ["blocks.0.attn", "blocks.0.mlp"]
