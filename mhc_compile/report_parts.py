"""What reports are put together from: titles, lists, tables."""

from __future__ import annotations

from collections.abc import Sequence

from rich import box
from rich.console import Console
from rich.padding import Padding
from rich.table import Table
from rich.text import Text


def bullets(sentences: Sequence[str]) -> Table:
    """A list whose wrapped lines stay indented."""
    grid = Table.grid(padding=(0, 1))
    for sentence in sentences:
        grid.add_row(Text("•", style="cyan"), Text(sentence, overflow="fold"))
    return grid


def facts(rows: Sequence[tuple[str, str]]) -> Table:
    """Names and values in two columns."""
    grid = Table.grid(padding=(0, 2))
    for name, value in rows:
        grid.add_row(Text(name, style="dim"), Text(value, overflow="fold"))
    return grid


def bulleted(console: Console, title: str, sentences: Sequence[str]) -> None:
    """Print a list under a title, if there is anything in it."""
    if sentences:
        section(console, title, bullets(sentences))


def section(console: Console, title: str, body: Table) -> None:
    """Print a table under a title."""
    console.print()
    console.print(Text(title, style="bold"))
    console.print(Padding(body, (0, 0, 0, 2)) if console.is_terminal else body)


def new_table(boxed: bool, *names: str, right: Sequence[str] = (), footer: Sequence[str] = ()) -> Table:
    """A table that folds long words and truncates none."""
    made = Table(
        box=box.SIMPLE_HEAD if boxed else None,
        show_footer=bool(footer),
        show_edge=False,
        pad_edge=False,
        header_style="dim",
        border_style="dim",
    )
    for name, foot in zip(names, footer or [""] * len(names), strict=True):
        numeric = name in right
        made.add_column(name, foot, justify="right" if numeric else "left", overflow="fold", no_wrap=numeric)
    return made
