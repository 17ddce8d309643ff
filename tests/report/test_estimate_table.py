from __future__ import annotations

import io

import pytest
from rich.console import Console

from mhc_compile.report.estimate_table import figure_text, render_estimate
from mhc_compile.wording import quantity
from tests.page.pages import estimate


def test_every_row_and_every_formula_is_printed() -> None:
    stream = io.StringIO()
    render_estimate(estimate(), Console(file=stream, width=10_000), target="hf:llama")
    text = stream.getvalue()
    for wanted in ("hf:llama", "NVIDIA H100 SXM", "16,384 tokens", "a note", "64.0", "T C b", "plain + B", "62 ms"):
        assert wanted in text
    assert sum(line.split()[1:2] == ["mhc"] for line in text.splitlines()) == 6  # in two tables


@pytest.mark.parametrize(
    ("value", "unit", "text"),
    [(0.0620, "s", "62 ms"), (3.2, "s", "3.2 s"), (2e-6, "s", "2 µs"), (1.5e9, "B", "1.5 GB"), (12, "B", "12 B"),
     (1_081_668, "", "1,081,668"), (42.26, "%", "42.3 %"), (9.89e14, "FLOP", "989 TFLOP")],
)  # fmt: skip
def test_numbers_can_be_read_at_a_glance(value: float, unit: str, text: str) -> None:
    assert quantity(value, unit) == text


def test_a_figure_that_there_is_not_is_a_dash() -> None:
    assert figure_text(None) == "-"
