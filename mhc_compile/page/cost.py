"""What it would cost: bars to compare, a table to choose from, and the formula of every figure."""

from __future__ import annotations

from collections.abc import Iterator

from mhc_compile.cost.figures import Estimate, Figure, Row
from mhc_compile.page.html import listing, row, table, tag, words
from mhc_compile.report.estimate_table import figure_text

_HEADS = (
    "n and connection", "Longer step", "Step", "Step, recomputed", "Memory", "Memory, recomputed", "Kept",
    "Kept, recomputed", "New parameters", "New FLOPs",
)  # fmt: skip
_PLAIN = {"parameters": "parameters", "flops": "arithmetic of a step", "bytes": "memory traffic of a step",
          "kept": "kept for the backward", "memory": "memory", "seconds": "step"}  # fmt: skip


def show_cost(found: Estimate) -> str:
    """The part of a page on cost."""
    device = found.device
    head = (
        f"For {device.title}: {found.tokens:,} tokens a step, {found.dtype}, forward, backward and AdamW. "
        "The model itself was not measured."
    )
    return "".join(
        [
            tag("p", tag("span", "estimate", class_="badge"), words(f" {head}")),
            tag("h3", "The plain model"),
            tag("dl", *_plain(found), class_="cards"),
            tag("h3", "Longer step, in per cent of the plain one"),
            _bars(found),
            tag("h3", "To choose from"),
            table("Cost by number of streams and connection", _HEADS, map(_row, found.rows), numbers=_HEADS[1:]),
            tag("details", tag("summary", "Formula of every figure"), _formulas(found), class_="formulas"),
            listing(found.notes),
        ]
    )  # fmt: skip


def _plain(found: Estimate) -> Iterator[str]:
    for name, figure in vars(found.plain).items():
        yield tag("div", tag("dt", _PLAIN[name]), tag("dd", words(figure_text(figure)), title=figure.formula))


def _row(r: Row) -> str:
    figures = (
        r.ours.overhead, r.ours.seconds, r.seconds_recomputed, r.memory, r.memory_recomputed, r.kept,
        r.kept_recomputed, r.parameters, r.flops,
    )  # fmt: skip
    cells = [words(figure_text(figure)) for figure in figures]
    return row([words(f"n = {r.n}, {r.connection}"), *cells], numbers=range(1, len(cells) + 1))


def _bars(found: Estimate) -> str:
    most = max(scheme.overhead.value for r in found.rows for scheme in r.schemes)
    groups = []
    for r in found.rows:
        bars = [_bar(scheme.name, scheme.overhead, most, i) for i, scheme in enumerate(r.schemes)]
        groups.append(tag("li", tag("strong", words(f"n = {r.n}, {r.connection}")), tag("ul", *bars)))
    return tag("ul", *groups, class_="bars")


def _bar(name: str, overhead: Figure, most: float, index: int) -> str:
    share = max(0.0, 100 * overhead.value / most) if most > 0 else 0.0
    bar = tag("span", class_=f"bar scheme-{index}", style=f"width:{share:.1f}%", aria_hidden="true")
    label = tag("span", words(name), class_="quiet")
    return tag("li", label, tag("span", bar, class_="track"), tag("b", words(figure_text(overhead))))


def _formulas(found: Estimate) -> str:
    rows = [row([words(name), words(formula)]) for name, formula in found.formulas()]
    legend = "Per step: T tokens, C channels, b bytes of an element, n streams; columns are those of phi."
    return tag("p", legend, class_="quiet") + table("Formulas", ("Figure", "Formula"), rows)
