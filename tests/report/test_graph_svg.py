from __future__ import annotations

import xml.etree.ElementTree as ET
from pathlib import Path

import pytest

from mhc_compile.errors import InvalidOptionError
from mhc_compile.passes.plan.data import Plan
from mhc_compile.report.collapse import fold_blocks
from mhc_compile.report.graph_layout import rows, split_label
from mhc_compile.report.graph_svg import check_path, to_svg, write_svg
from tests import hand_plans as hand

NS = "{http://www.w3.org/2000/svg}"


def drawn(plan: Plan) -> ET.Element:
    return ET.fromstring(to_svg(plan))


def texts(root: ET.Element) -> list[str]:
    return [node.text or "" for node in root.iter(f"{NS}text")]


def of_class(root: ET.Element, tag: str, class_: str) -> list[ET.Element]:
    return [node for node in root.iter(f"{NS}{tag}") if node.get("class") == class_]


def test_the_file_is_valid_xml_with_entry_sites_and_readout(tmp_path: Path) -> None:
    path = tmp_path / "graph.svg"
    write_svg(hand.plan([hand.transformer(12)]), path)
    words = texts(ET.parse(path).getroot())
    assert {"entry_0", "blocks.{0..11}.attn", "blocks.{0..11}.mlp", "prenorm", "add_23", "\u00d712"} <= set(words)


@pytest.mark.parametrize("n", [1, 2, 4, 8])
def test_there_are_as_many_lines_as_streams(n: int) -> None:
    assert len(of_class(drawn(hand.plan([hand.transformer(3)], n=n)), "line", "stream")) == n


def test_mixing_is_drawn_only_where_streams_mix() -> None:
    chain = hand.transformer(3)
    legend = 1
    assert len(of_class(drawn(hand.plan([chain])), "rect", "mix")) == 2 + legend
    assert len(of_class(drawn(hand.plan([chain], connection="identity")), "rect", "mix")) == legend
    assert len(of_class(drawn(hand.plan([chain], n=1)), "rect", "mix")) == legend


def test_names_are_escaped() -> None:
    site = hand.site('<a&b>"', "x", branch_summary="]]> & <b>", location="\x00\x1b.py:1")
    root = drawn(hand.plan([[site]], segments=(hand.segment(0, [site], entry="<&>"),)))
    assert '<a&b>"' in texts(root) and "<&>" in texts(root)
    assert any("]]> & <b>" in (t.text or "") for t in root.iter(f"{NS}title"))


def test_a_readout_between_sites_is_marked_and_not_listed_at_the_end() -> None:
    chain = hand.transformer(2)
    inner, last = hand.readout(chain[1], "stack", node="relu_1"), hand.readout(chain[-1], "norm")
    root = drawn(hand.plan([chain], segments=(hand.segment(0, chain, readouts=(inner, last)),)))
    assert [t.text for t in root.iter(f"{NS}title") if "read out" in (t.text or "")] == ["read out: relu_1"]
    assert "add_3" in texts(root) and "relu_1" not in texts(root)


def test_a_plan_without_sites_is_still_a_drawing() -> None:
    assert "0 sites in 0 segments" in texts(drawn(hand.plan([])))


def test_long_segments_wrap_and_every_box_lies_on_the_paper() -> None:
    chain = [hand.site(f"part_{chr(97 + i)}.block.conv", f"x{i}", parameters=i) for i in range(20)]
    root = drawn(hand.plan([chain]))
    boxes = of_class(root, "rect", "site")
    assert len(boxes) == 20
    assert len({box.get("y") for box in boxes}) > 1
    for start, size in (("x", "width"), ("y", "height")):
        assert max(float(box.get(start, 0)) + float(box.get(size, 0)) for box in boxes) < float(root.get(size, 0))


def test_boxes_of_a_row_do_not_overlap() -> None:
    chain = [hand.site(f"part_{chr(97 + i)}.{'x' * (i % 9)}", f"x{i}", parameters=i) for i in range(15)]
    for row in rows(fold_blocks([*chain, *hand.transformer(4)])):
        for left, right in zip(row.boxes, row.boxes[1:], strict=False):
            assert left.right < right.x


@pytest.mark.parametrize(
    ("text", "lines"),
    [
        ("a.b", ("a.b",)),
        ("model.language.layers.{0,2,..,8}.mlp", ("model.language.layers", ".{0,2,..,8}.mlp")),
        ("x" * 30, ("x" * 26, "x" * 4)),
    ],
)
def test_labels_break_before_dots(text: str, lines: tuple[str, ...]) -> None:
    assert split_label(text) == lines


@pytest.mark.parametrize("name", ["graph.png", "graph", "missing/graph.svg"])
def test_a_path_that_cannot_be_drawn_to_is_an_error(tmp_path: Path, name: str) -> None:
    with pytest.raises(InvalidOptionError, match="write"):
        check_path(tmp_path / name)


def test_a_directory_is_no_path_for_a_drawing(tmp_path: Path) -> None:
    (tmp_path / "dir.svg").mkdir()
    with pytest.raises(InvalidOptionError, match="is a directory"):
        write_svg(hand.plan([]), tmp_path / "dir.svg")


def test_a_file_the_system_refuses_is_an_error() -> None:
    with pytest.raises(InvalidOptionError, match="cannot be written"):
        write_svg(hand.plan([]), "/proc/mhc.svg")
