"""The slot for diagnostics on a page: a table with drawings and sentences, ready to be shown."""

from __future__ import annotations

from dataclasses import dataclass


@dataclass(frozen=True)
class Panel:
    """One table of diagnostics.

    Attributes:
        title: what it shows.
        columns: names of its columns.
        rows: texts, as many in each as there are columns; the first names the row.
        notes: sentences below.
        drawings: SVG elements above the table, each with a title inside.
    """

    title: str
    columns: tuple[str, ...]
    rows: tuple[tuple[str, ...], ...]
    notes: tuple[str, ...] = ()
    drawings: tuple[str, ...] = ()
