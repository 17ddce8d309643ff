"""What reports are put together from: titles, lists, tables."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from typing import Any

from rich import box
from rich.console import Console
from rich.markup import escape
from rich.padding import Padding
from rich.progress import BarColumn, Progress, SpinnerColumn, Task, TextColumn
from rich.table import Table
from rich.text import Text


@contextmanager
def progress_bar(console: Console) -> Iterator[Callable[..., None]]:
    """In the block, `say(text, done=0, total=0)` shows what is going on, with a bar where a total is known.

    Nothing of it stays on the screen, and where there is none nothing is shown.
    """
    columns = (SpinnerColumn(), TextColumn("[dim]{task.description}"), _BarWhereKnown(bar_width=24))
    with Progress(*columns, console=console, transient=True, disable=not console.is_terminal) as progress:
        task = progress.add_task("starting", total=None)

        def say(text: str, done: int = 0, total: int = 0) -> None:
            progress.update(task, description=escape(text), completed=done, total=total or None)

        yield say


class _BarWhereKnown(BarColumn):
    def render(self, task: Task) -> Any:
        """A bar, or nothing while no total is known: the spinner moves."""
        return Text("") if task.total is None else super().render(task)


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
