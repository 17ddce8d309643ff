from __future__ import annotations

import json
from pathlib import Path

import pytest

from mhc_compile.errors import InvalidOptionError
from mhc_compile.page.diagnosis import draw_gains, panels_of, read_diagnosis
from tests.page.pages import diagnosis


def test_a_row_for_each_site_and_the_alarms_below() -> None:
    (panel,) = panels_of(diagnosis())
    assert panel.columns == ("Site", "Gain, forward", "Composite gain, forward", "Composite gain, backward")
    assert len(panel.rows) == 24 and panel.rows[0] == ("blocks.0.attn", "1.1", "1", "9.85")
    assert panel.notes == ("the gain is above 2",)
    assert panels_of({"sites": diagnosis()["sites"]})[0].notes == ("No alarm.",)


def test_what_is_not_finite_is_told_and_leaves_a_gap() -> None:
    sites = [{"key": str(i), "composite_forward": None if i == 2 else 1.0} for i in range(5)]
    (panel,) = panels_of({"sites": sites})
    assert [row[1] for row in panel.rows] == ["1", "1", "not finite", "1", "1"]
    assert panel.drawings[0].count("curve forward") == 2 and "curve backward" not in panel.drawings[0]


def test_an_exploding_gain_stays_on_the_paper() -> None:
    drawing = draw_gains({"forward": [1.0, 1e3, 1e6], "backward": [1e-3, 1.0, 1.0]})
    heights = [float(pair.split()[1]) for pair in drawing.split(' d="M')[1].split('"')[0].split(" L")]
    assert heights == sorted(heights, reverse=True) and 0 < heights[-1] < heights[0] < 220
    assert ">1e+06<" in drawing and ">0.001<" in drawing


@pytest.mark.parametrize(
    ("content", "told"),
    [
        ("no json", "is not what diagnose prints"),
        ('{"rows": []}', "is not what diagnose prints"),
        ('{"sites": []}', "it has no sites"),
        (json.dumps(diagnosis()), "names the site 'blocks.0.mlp'"),
    ],
)
def test_another_file_is_a_user_error(content: str, told: str, tmp_path: Path) -> None:
    path = tmp_path / "figures.json"
    path.write_text(content)
    with pytest.raises(InvalidOptionError, match=told):
        read_diagnosis(path, {"blocks.0.attn"})
    with pytest.raises(InvalidOptionError, match="FileNotFoundError"):
        read_diagnosis(tmp_path / "none.json", set())
