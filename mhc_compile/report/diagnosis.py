"""The figures of a call, for a terminal or a pipe."""

from __future__ import annotations

import math
import re
from collections.abc import Sequence
from dataclasses import dataclass

from rich.console import Console
from rich.panel import Panel
from rich.table import Table
from rich.text import Text

from mhc_compile.diagnostics.data import Diagnosis, SiteFigures, percent
from mhc_compile.report.collapse import label
from mhc_compile.report.parts import facts, new_table, section
from mhc_compile.wording import count_text

_LOUD = {"non-finite": "bold red", "gain": "bold red", "collapse": "yellow", "dead": "yellow"}
_NUMBERS = re.compile(r"\d+")
_WIDE = 110  # columns of a terminal from which on nothing is left out


def render_diagnosis(
    found: Diagnosis, console: Console, *, target: str, note: str = "", show_all: bool = False
) -> None:
    """Print alarms, one row per segment, and one per site.

    Args:
        found: the figures.
        console: where to; one that is no terminal gets plain lines without boxes.
        target: name of the model.
        note: where the weights come from.
        show_all: one row for each site instead of one for those that differ in numbers only and have like figures.
    """
    boxed = console.is_terminal
    head = facts([("target", target), *([("weights", note)] if note else []), *_head(found)])
    panel = Panel.fit(head, title="[bold]mhc-compile diagnose", border_style="cyan", padding=(0, 2))
    console.print(panel if boxed else head)
    section(console, "Alarms", _alarms(found))
    section(console, "Segments: the largest gain of a product of R over depth", _segments(found, boxed))
    section(console, "Mixing: gains of R, and of products of R", _table(found, _MIXING, console, show_all))
    section(console, "Streams: what of them is read, their size, how far they differ",
            _table(found, _STREAMS, console, show_all))  # fmt: skip


def _head(found: Diagnosis) -> list[tuple[str, str]]:
    moved, parameters = sum(s.moved for s in found.segments), sum(s.parameters for s in found.segments)
    looked = sum(s.tokens for s in found.sites)
    return [
        ("connection", f"{found.connection} · n = {found.n}"),
        ("sites", f"{len(found.sites)} in {count_text(len(found.segments), 'segment')}"),
        ("tokens", f"{looked // max(len(found.sites), 1):,} per site"),
        ("moved", f"{moved} of {count_text(parameters, 'parameter tensor')} since the start"),
    ]


def _alarms(found: Diagnosis) -> Table:
    table = Table.grid(padding=(0, 1))
    for alarm in found.alarms:
        table.add_row(Text(alarm.kind, style=_LOUD[alarm.kind]), Text(alarm.sentence, overflow="fold"))
    if not found.alarms:
        table.add_row(Text("none", style="green"))
    return table


def _segments(found: Diagnosis, boxed: bool) -> Table:
    names = ("Segment", "Sites", "Product fwd", "Product bwd", "Spread", "Moved")
    table = new_table(boxed, *names, right=("Segment", "Sites", "Spread", "Moved"))
    for s in found.segments:
        ways = [_at(s.composite_forward, s.at_forward), _at(s.composite_backward, s.at_backward)]
        spread = percent(s.spread) if len(s.sites) > 1 else "one site"
        table.add_row(str(s.index), str(len(s.sites)), *ways, spread, f"{s.moved}/{s.parameters}")
    return table


def _at(gain: float, key: str) -> Text:
    """A gain, and the site where it is found if it is one at all."""
    text = Text(_short(gain), overflow="fold")
    return text if _short(gain) == "1" else text.append(f" at {key}", style="dim")


@dataclass(frozen=True)
class _Column:
    """A heading and the figure below it; `wide` ones are left out where a terminal is narrow."""

    name: str
    field: str
    wide: bool = False


_MIXING = (
    _Column("R fwd", "gain_forward"),
    _Column("R bwd", "gain_backward", wide=True),
    _Column("Product fwd", "composite_forward"),
    _Column("Product bwd", "composite_backward"),
    _Column("Singular values", "singular_values", wide=True),
    _Column("Entropy", "entropy"),
)
_STREAMS = (
    _Column("pre", "pre_mean", wide=True),
    _Column("post", "post_mean", wide=True),
    _Column("Read share", "read_share"),
    _Column("Size", "stream_rms"),
    _Column("Spread", "spread"),
    _Column("Cosine", "similarity", wide=True),
)


def _table(found: Diagnosis, columns: Sequence[_Column], console: Console, show_all: bool) -> Table:
    """One row for each group of sites, with the span that their figures have."""
    boxed = console.is_terminal
    kept = [c for c in columns if not (c.wide and boxed and console.width < _WIDE)]
    names = ["Site", *(c.name for c in kept)]
    table = new_table(boxed, *names, right=names[1:])
    for sites in _groups(found, show_all):
        table.add_row(_site_name(sites), *(_span(_all_values(sites, c.field)) for c in kept))
    return table


def _all_values(sites: Sequence[SiteFigures], field: str) -> list[float]:
    return [v for s in sites for v in _values(getattr(s, field))]


def _values(figure: float | tuple[float, ...]) -> tuple[float, ...]:
    return figure if isinstance(figure, tuple) else (figure,)


def _groups(found: Diagnosis, show_all: bool) -> list[list[SiteFigures]]:
    """Sites by row: those whose keys differ in numbers only share one."""
    if show_all:
        return [[site] for site in found.sites]
    alike: dict[tuple[int, str, str], list[SiteFigures]] = {}
    for site in found.sites:
        alike.setdefault((site.segment, _NUMBERS.sub("*", site.key), site.trouble), []).append(site)
    return list(alike.values())


def _site_name(sites: Sequence[SiteFigures]) -> Text:
    name = Text(label([s.key for s in sites]), overflow="fold")
    trouble = sites[0].trouble
    return name.append(f"\nnot finite: {trouble}", style="red") if trouble else name


def _span(values: Sequence[float]) -> str:
    """`0.98`, or `0.93..1.04` where values differ in what is shown."""
    if any(math.isnan(v) for v in values):
        return "nan"
    low, high = _short(min(values)), _short(max(values))
    return low if low == high else f"{low}..{high}"


def _short(value: float) -> str:
    """Two decimals, or one digit where that would be none."""
    if math.isnan(value):
        return "nan"
    if value and abs(value) < 0.005:
        return "0" if abs(value) < 5e-7 else f"{value:.0e}".replace("e-0", "e-")
    return f"{value:.2f}".rstrip("0").rstrip(".") if abs(value) < 100 else f"{value:.3g}"
