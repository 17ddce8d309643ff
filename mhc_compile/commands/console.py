"""Where commands print: a report on stdout, what is going on and errors on stderr."""

from __future__ import annotations

import sys
from collections.abc import Iterator
from contextlib import contextmanager
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from rich.console import Console

_PIPE_WIDTH = 10_000  # columns when nobody looks: nothing is ever folded


def new_console(width: int | None, stderr: bool = False) -> Console:
    """A console as wide as the terminal; where there is none, so wide that no name is ever cut or folded."""
    from rich.console import Console

    stream = sys.stderr if stderr else sys.stdout
    if hasattr(stream, "reconfigure"):
        stream.reconfigure(errors="replace")  # a terminal that has no box characters still gets the report
    return Console(stderr=stderr, width=width or (None if stream.isatty() else _PIPE_WIDTH), highlight=False)


@contextmanager
def progress() -> Iterator[Any]:
    """A function that shows what is going on, on stderr and only if that is a terminal."""
    if not sys.stderr.isatty():
        yield lambda text: None
        return
    console = new_console(None, stderr=True)
    with console.status("starting") as status:
        yield lambda text: status.update(f"[dim]{text.replace('[', chr(92) + '[')}")


def print_error(title: str, message: str) -> None:
    """One message on stderr, its title in red."""
    from rich.text import Text

    new_console(None, stderr=True).print(Text(f"{title}: ", style="bold red").append(message, style="not bold default"))
