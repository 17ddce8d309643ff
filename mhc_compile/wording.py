"""How locations, shapes, names and numbers are written for a reader."""

from __future__ import annotations

import re
from collections.abc import Sequence
from pathlib import Path

from mhc_compile.passes.plan.data import Dim, Plan, Segment

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


def state_text(plan: Plan, segment: Segment) -> str:
    """What is carried from site to site, in a few words."""
    if plan.over_sources:
        return f"up to {count_text(plan.longest_list(segment), 'source')}"
    return "streams may differ from the start" if segment.linear else "streams start equal"


def entry_text(plan: Plan) -> str:
    """What becomes of the value at which a segment begins."""
    return "is the first source" if plan.over_sources else f"becomes {plan.n} equal streams"


def quantity(value: float, unit: str) -> str:
    """A number that can be read at a glance: `1.5 GB`, `62.0 ms`, `1,081,668`."""
    if unit == "s":
        scales = (("s", 1.0), ("ms", 1e-3), ("µs", 1e-6))
        name, scale = next((pair for pair in scales if abs(value) >= pair[1]), scales[-1])
        return f"{value / scale:.3g} {name}"
    if unit == "%":
        return f"{value:.1f} %"
    if not unit:
        return f"{value:,.0f}"
    prefix, scale = next((p for p in _PREFIXES if abs(value) >= p[1]), ("", 1.0))
    return f"{value / scale:.3g} {prefix}{unit}"


_PREFIXES = (("P", 1e15), ("T", 1e12), ("G", 1e9), ("M", 1e6), ("k", 1e3))
