"""An estimate for a terminal or a pipe: the plain step, one row for each n and connection, the formulas."""

from __future__ import annotations

from rich.console import Console
from rich.table import Table

from mhc_compile.cost.figures import Estimate, Figure, Row
from mhc_compile.report.parts import bulleted, facts, new_table, section
from mhc_compile.wording import quantity


def render_estimate(found: Estimate, console: Console, *, target: str) -> None:
    """Print an estimate.

    Args:
        found: what to print.
        console: where to; a console that is no terminal gets plain lines without boxes.
        target: name of the model, for the header.
    """
    device = found.device
    console.print(
        facts(
            [
                ("target", target),
                ("estimate", f"for {device.title}; the model itself was not measured"),
                ("speeds", f"{quantity(device.flop_rate(found.dtype), 'FLOP')}/s, {quantity(device.byte_rate, 'B')}/s"),
                ("from", device.source),
                ("step", f"{found.tokens:,} tokens, {found.dtype}, forward, backward and AdamW"),
                ("sites", f"{found.sites:,}"),
            ]
        )
    )
    section(console, "The plain model", _plain(found, console.is_terminal))
    section(
        console,
        "With hyper-connections (estimates; step and + % as timed)",
        _rows(found, console.is_terminal),
    )
    section(console, "Formulas (per step; T tokens, C channels, b bytes of an element, n streams)", _formulas(found))
    bulleted(console, "Notes", found.notes)


def _plain(found: Estimate, boxed: bool) -> Table:
    table = new_table(boxed, *vars(found.plain), right=tuple(vars(found.plain)))
    table.add_row(*(figure_text(figure) for figure in vars(found.plain).values()))
    return table


def _rows(found: Estimate, boxed: bool) -> Table:
    others = [scheme.name for scheme in found.rows[0].schemes[:-1]]
    numbers = ("+ %", "Step", "recomputed", "Memory", "recomputed ", "Kept", "recomputed  ", "Parameters", "FLOPs")
    overheads = [f"+ % {name}" for name in others]
    table = new_table(boxed, "n", "Connection", *numbers, *overheads, right=("n", *numbers, *overheads))
    for row in found.rows:
        table.add_row(str(row.n), row.connection, *_cells(row))
    return table


def _cells(row: Row) -> list[str]:
    figures = (
        row.ours.seconds,
        row.seconds_recomputed,
        row.memory,
        row.memory_recomputed,
        row.kept,
        row.kept_recomputed,
        row.parameters,
        row.flops,
    )
    overheads = [f"{scheme.overhead.value:.1f}" for scheme in row.schemes]
    return [overheads[-1], *map(figure_text, figures), *overheads[:-1]]


def _formulas(found: Estimate) -> Table:
    return facts([(name, formula) for name, formula in found.formulas()])


def figure_text(figure: Figure | None) -> str:
    """A number with its unit; a dash where there is none."""
    return "-" if figure is None else quantity(figure.value, figure.unit)
