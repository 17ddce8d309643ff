"""The passes one after the other, for a terminal or a pipe."""

from __future__ import annotations

from rich.console import Console
from rich.table import Table
from rich.text import Text

from mhc_compile.passes.history import PASSES
from mhc_compile.report.parts import facts, new_table, section
from mhc_compile.report.rewrites import Rewrites

_STYLES = {"+": "green", "-": "red"}


def render_rewrites(found: Rewrites, console: Console, *, target: str) -> None:
    """Print one row for each pass, and then what each did around one site.

    Args:
        found: what to print.
        console: where to; a console that is no terminal gets plain lines without boxes or colours.
        target: name of the model, for the header.
    """
    head = [("target", target), ("sites", str(len(found.plan.sites))), ("traced", f"{found.seconds:.2f} s")]
    console.print(facts(head))
    section(console, "Passes", _passes(found, console.is_terminal))
    before = found.around(found.records[0], after=False)
    _lines(console, f"Around {found.site.key}, as traced", tuple(f"  {line}" for line in before))
    for record in found.records:
        changes = found.changes(record)
        if changes:
            _lines(console, f"Around {found.site.key}, what {record.name} changes", changes)


def _passes(found: Rewrites, boxed: bool) -> Table:
    numbers = ("Nodes", "Touched", "New", "Gone", "Changed", "ms")
    table = new_table(boxed, "Pass", *numbers, "What it does", right=numbers)
    for r in found.records:
        counts = (len(r.after), r.touched, r.added, r.removed, r.changed)
        table.add_row(r.name, *(f"{count:,}" for count in counts), f"{1e3 * r.seconds:.1f}", PASSES[r.name])
    return table


def _lines(console: Console, title: str, lines: tuple[str, ...]) -> None:
    console.print()
    console.print(Text(title, style="bold"))
    for line in lines:
        console.print(Text(line, style=_STYLES.get(line[0], ""), overflow="fold"))
