"""The code of one site before and after, and the passes in between."""

from __future__ import annotations

from collections.abc import Iterator, Sequence

from mhc_compile.page.html import code, row, table, tag, words
from mhc_compile.passes.history import PASSES
from mhc_compile.report.rewrites import Rewrites

_HEADS = ("Pass", "Touched", "Nodes", "ms", "What it does")


def show_code(found: Rewrites) -> str:
    """One site as traced and as rewritten, side by side where there is room."""
    before = found.around(found.records[0], after=False)
    after = found.around(found.records[-1], after=True)
    return "".join(
        [
            tag("p", "The graph around ", code(found.site.key), ". Lines that are new or different are marked +."),
            tag(
                "div",
                _listing("Before", before, ()),
                _listing("After", after, before),
                class_="sides",
            ),
            tag("h3", "Pass by pass"),
            table("Passes in order", _HEADS, _passes(found), numbers=_HEADS[1:4]),
        ]
    )


def _listing(title: str, lines: Sequence[str], known: Sequence[str]) -> str:
    marked = [_line(line, bool(known) and line not in known) for line in lines]
    listing = tag("pre", tag("code", "\n".join(marked)), tabindex="0", role="region", aria_label=f"{title}: code")
    return tag("div", tag("h3", title), listing)


def _line(line: str, new: bool) -> str:
    return tag("span", f"+ {words(line)}", class_="new") if new else f"  {words(line)}"


def _passes(found: Rewrites) -> Iterator[str]:
    for r in found.records:
        cells = [words(r.name), f"{r.touched:,}", f"{len(r.after):,}", f"{1e3 * r.seconds:.1f}", words(PASSES[r.name])]
        yield row(cells, numbers=(1, 2, 3))
