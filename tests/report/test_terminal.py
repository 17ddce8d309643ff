from __future__ import annotations

import io
import re
from dataclasses import replace
from pathlib import Path

import pytest
from rich.console import Console

from mhc_compile.passes.plan.data import Plan
from mhc_compile.passes.plan.reasons import Reason
from mhc_compile.report.terminal import InconsistentPlanError, check_totals, render
from mhc_compile.wording import count_text, names_text, shape_text, short_location
from tests import hand_plans as hand


def printed(plan: Plan, width: int = 10_000, terminal: bool = False, show_all: bool = False) -> str:
    stream = io.StringIO()
    console = Console(file=stream, width=width, force_terminal=terminal, color_system="standard" if terminal else None)
    render(plan, console, target="timm:vit", show_all=show_all)
    return stream.getvalue()


def visible(text: str) -> str:
    return re.sub(r"\x1b\[[\d;]*m", "", text)


def test_the_header_adds_up() -> None:
    parallel = hand.site("h.0", "add_b", adds=("add_a", "add_b"), kind="parallel")
    text = printed(hand.plan([[parallel]], (hand.rejection("mask"),)))
    assert "float adds      3 = 2 in sites + 1 left alone" in text
    assert "sites           1 in 1 segment" in text
    assert "mhc · n = 4 · init preserve · reduce mean" in text


def test_repeated_layers_are_one_row_each() -> None:
    text = printed(hand.plan([hand.transformer(80)]))
    assert re.search(r"^ +0 +blocks\.\{0\.\.79\}\.attn +80 +prenorm +s0\u00d7197\u00d7192 +1,476,720 ", text, re.M)
    assert "blocks.3.attn" not in text


def test_all_expands_sites_and_rejections() -> None:
    rejected = tuple(hand.rejection(f"mask_{i}") for i in range(3))
    plan = hand.plan([hand.transformer(3)], rejected)
    text = printed(plan, show_all=True)
    assert all(site.key in text for site in plan.sites)
    assert all(r.add in text for r in rejected)


def test_rejections_collapse_by_reason_with_an_example() -> None:
    rejected = (*(hand.rejection(f"mask_{i}") for i in range(3)), hand.rejection("eps", Reason.SCALAR, detail=""))
    text = printed(hand.plan([hand.transformer(2)], rejected))
    assert re.search(
        r"^ +3 +BROADCAST: .* mask_0: pos_embed is broadcast  s0\u00d7197\u00d7192 · blocks.0  /nowhere/model.py:7",
        text,
        re.M,
    )
    assert re.search(r"^ +1 +SCALAR: ", text, re.M)
    assert "mask_1" not in text


def test_a_pipe_gets_no_escape_no_box_and_no_cut_name() -> None:
    long = hand.site("deep." * 60 + "mlp", "x", location="/a/" + "very_long_directory/" * 20 + "model.py:1")
    text = printed(hand.plan([[long, hand.site("b", "y")]]))
    assert "\x1b" not in text and not set(text) & set("─│╭╮╰╯…")
    assert long.key in text and long.location in text


@pytest.mark.parametrize("width", [60, 80, 120])
def test_a_terminal_row_never_exceeds_the_width_and_loses_no_character(width: int) -> None:
    key = "Z" * 66
    text = visible(printed(hand.plan([[hand.site(key, "x")], hand.transformer(2)]), width, terminal=True))
    assert max(map(len, text.splitlines())) <= width
    assert "…" not in text
    assert text.count("Z") == 2 * len(key) and "Recommendations" in text


def test_learned_readouts_are_part_of_the_total() -> None:
    chain = hand.transformer(2)
    learned = hand.segment(0, chain, readouts=(hand.readout(chain[-1], "head", parameters=1000),))
    plan = hand.plan([chain], segments=(learned,), reduce="learned")
    text = printed(plan)
    assert re.search(r"readouts +1 +learned +1,000", text)
    assert f"{4 * 18_459 + 1000:,}" in text


def test_segments_show_entry_readouts_lifts_and_streams() -> None:
    text = printed(hand.resnet())
    assert re.search(r"2 +5 +entry_2 +add_3_4 +relu_2_0, relu_2_1, relu_2_2, relu_2_3 and 1 more +equal", text)
    assert "may differ" in printed(hand.plan([hand.transformer(2)]))


def test_notes_and_recommendations_come_last() -> None:
    text = printed(replace(hand.resnet(), notes=("built on the CPU",)))
    assert 0 < text.index("• built on the CPU") < text.index("Recommendations") < text.index("• 1 segment of a single")


def test_names_with_markup_are_printed_as_they_are() -> None:
    plan = hand.plan([[hand.site("a[bold]", "x", location="[red]/m.py:1")]], (hand.rejection("b[/]"),))
    text = visible(printed(plan, 120, terminal=True))
    assert "a[bold]" in text and "[red]/m.py:1" in text and "b[/]" in text


def test_a_plan_without_sites_has_no_site_table() -> None:
    text = printed(hand.plan([], (hand.rejection("mask"),)))
    assert "Segments" not in text and "BROADCAST" in text


def test_adds_that_are_not_explained_are_an_internal_error() -> None:
    plan = hand.plan([hand.transformer(2)])
    with pytest.raises(InconsistentPlanError, match="4 adds are explained, 5 exist"):
        check_totals(replace(plan, float_adds=5))


def test_an_add_counted_twice_is_an_internal_error() -> None:
    with pytest.raises(InconsistentPlanError, match=r"repeated: \['x'\]"):
        check_totals(hand.plan([[hand.site("a", "x")]], (hand.rejection("x"),)))


def test_a_site_in_no_segment_is_an_internal_error() -> None:
    with pytest.raises(InconsistentPlanError, match="segments hold"):
        check_totals(hand.plan([hand.transformer(1)], segments=()))


def test_locations_are_shortened_where_they_can_be() -> None:
    assert short_location("/e/lib/site-packages/timm/a.py:1") == "timm/a.py:1"
    assert short_location(r"C:\lib\site-packages\timm\a.py:1") == r"timm\a.py:1"
    assert short_location(f"{Path.cwd()}/model.py:3") == "model.py:3"
    assert short_location("/other/model.py:3") == "/other/model.py:3"
    assert short_location("") == ""


def test_shapes_names_and_counts_are_spelled_for_readers() -> None:
    assert shape_text(("s0", 197, "s1 + 1")) == "s0\u00d7197\u00d7(s1 + 1)"
    assert names_text(["a", "b", "c", "d", "e"]) == "a, b, c, d and 1 more"
    assert (count_text(1, "node"), count_text(1200, "node")) == ("1 node", "1,200 nodes")
