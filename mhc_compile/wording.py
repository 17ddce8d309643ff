"""How locations, shapes, names and numbers are written for a reader."""

from __future__ import annotations

import re
from collections.abc import Sequence
from pathlib import Path

from mhc_compile.passes.plan.data import Dim

TIMES = "\N{MULTIPLICATION SIGN}"

_INSTALLED = re.compile(r".*[/\\](?:site|dist)-packages[/\\]")


def short_location(location: str) -> str:
    """`file:line` relative to site-packages or the working directory, where it lies in one."""
    installed = _INSTALLED.match(location)
    if installed:
        return location[installed.end() :]
    return location.removeprefix(f"{Path.cwd()}/")


def shape_text(shape: Sequence[Dim]) -> str:
    """`("s0", 197, 192)` with multiplication signs between the sizes; compound expressions in brackets."""
    return TIMES.join(text if text.isalnum() else f"({text})" for text in map(str, shape))


def names_text(names: Sequence[str], at_most: int = 4) -> str:
    """The first names, and how many more there are."""
    more = len(names) - at_most
    return ", ".join(names) if more <= 0 else f"{', '.join(names[:at_most])} and {more} more"


def count_text(number: int, noun: str) -> str:
    """`1 node`, `1,200 nodes`."""
    return f"{number:,} {noun}" if number == 1 else f"{number:,} {noun}s"
