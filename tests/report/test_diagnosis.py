from __future__ import annotations

import io

import pytest
from rich.console import Console

from mhc_compile.report.diagnosis import render_diagnosis
from tests.diagnostics.figures_by_hand import diagnosis, site

NAN = float("nan")


def printed(found, width=200, terminal=False, **options):
    text = io.StringIO()
    console = Console(file=text, width=width, force_terminal=terminal, highlight=False, color_system=None)
    render_diagnosis(found, console, target="m.py:make", **options)
    return text.getvalue()


def chain(count):
    return [site(f"blocks.{i}.mlp", f"blocks.{i - 1}.mlp" if i else "", entropy=0.1 * i) for i in range(count)]


def test_repeated_sites_share_a_row_with_the_span_of_their_figures():
    lines = printed(diagnosis(*chain(3))).splitlines()
    (mixing, streams) = [line for line in lines if line.startswith("blocks.{0..2}.mlp")]
    assert "0..0.2" in mixing and "0.1" in streams


def test_with_all_each_site_has_a_row():
    out = printed(diagnosis(*chain(3)), show_all=True)
    assert all(out.count(f"\nblocks.{i}.mlp ") == 2 for i in range(3))


def test_alarms_stand_first_and_none_is_said():
    assert "Alarms\nnone" in printed(diagnosis(*chain(2)))
    found = diagnosis(site("a"), site("b", "a", trouble="branch", gain_forward=NAN, composite_forward=NAN))
    out = printed(found, note="weights of x.pt")
    assert "non-finite b is the first site with a value that is not finite: the output of its branch" in out
    assert out.index("weights of x.pt") < out.index("Alarms") < out.index("Segments")
    assert "not finite: branch" in out and "nan" in out


@pytest.mark.parametrize("width", [80, 100])
def test_in_a_terminal_no_line_is_wider_than_it(width):
    out = printed(diagnosis(*chain(12)), width=width, terminal=True)
    assert max(map(len, out.splitlines())) <= width and out.count("blocks.{0..11}.mlp") == 2
    assert "mhc-compile diagnose" in out and "…" not in out


@pytest.mark.parametrize(
    ("value", "text"), [(1.0000002, "1"), (0.126, "0.13"), (123.4, "123"), (2e-5, "2e-5"), (1e-8, "0")]
)
def test_numbers_are_short(value, text):
    printed_rows = printed(diagnosis(site("a", spread=value), site("b", "a", spread=value))).splitlines()
    row = [line for line in printed_rows if line.startswith("a ")][-1]
    assert text in row.split()[1:] and row.split().count("0") == (text == "0"), row
