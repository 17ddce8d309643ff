"""What it would cost: bars to compare, a table to choose from, and the formula of every figure."""

from __future__ import annotations

from collections.abc import Iterator

from mhc_compile.cost.figures import Estimate, Figure, Row
from mhc_compile.page.html import listing, row, table, tag, words
from mhc_compile.report.estimate_table import figure_text

_HEADS = ("n and connection", "New parameters", "FLOPs", "Kept", "Kept, recomputed", "Memory", "Memory, recomputed",
          "Step")  # fmt: skip


def show_cost(found: Estimate) -> str:
    """The part of a page on cost."""
    device = found.device
    head = (
        f"Estimate for {device.title}: {found.tokens:,} tokens a step, {found.dtype}, forward, backward and AdamW. "
        "The model itself was not measured."
    )
    return "".join(
        [
            tag("p", tag("span", "estimate", class_="badge"), words(f" {head}")),
            tag("dl", *_plain(found), class_="cards"),
            tag("h3", "Longer step, in per cent of the plain one"),
            _bars(found),
            tag("h3", "To choose from"),
            table("Cost by number of streams and connection", _heads(found), map(_row, found.rows),
                  numbers=_heads(found)[1:]),
            tag("details", tag("summary", "Formula of every figure"), _formulas(found), class_="formulas"),
            listing(found.notes),
        ]
    )  # fmt: skip


def _plain(found: Estimate) -> Iterator[str]:
    for name, figure in vars(found.plain).items():
        yield tag("div", tag("dt", words(f"plain {name}")), tag("dd", words(figure_text(figure)), title=figure.formula))


def _heads(found: Estimate) -> tuple[str, ...]:
    return (*_HEADS, *(f"+ %, {scheme.name}" for scheme in found.rows[0].schemes))


def _row(r: Row) -> str:
    figures = (r.parameters, r.flops, r.kept, r.kept_recomputed, r.memory, r.memory_recomputed, r.ours.seconds)
    overheads = [scheme.overhead for scheme in r.schemes]
    cells = [_cell(figure) for figure in (*figures, *overheads)]
    return row([words(f"{r.n} · {r.connection}"), *cells], numbers=range(1, len(cells) + 1))


def _cell(figure: Figure | None) -> str:
    return words(figure_text(figure))


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
