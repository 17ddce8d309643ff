"""An estimate for a terminal or a pipe: the plain step, one row for each n and connection, the formulas."""

from __future__ import annotations

from rich.console import Console
from rich.table import Table

from mhc_compile.cost.figures import Estimate, Figure
from mhc_compile.cost.roofline import OURS, PAPERS, TIMED, UNFUSED
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
    section(console, "With hyper-connections: what they add to a step, in %", _overheads(found, console.is_terminal))
    section(console, "Memory, without and with recompute='auto'", _memory(found, console.is_terminal))
    section(console, "Formulas (per step; T tokens, C channels, b bytes of an element, n streams)", _formulas(found))
    bulleted(console, "Notes", found.notes)


def _plain(found: Estimate, boxed: bool) -> Table:
    table = new_table(boxed, *vars(found.plain), right=tuple(vars(found.plain)))
    table.add_row(*(figure_text(figure) for figure in vars(found.plain).values()))
    return table


_SCHEMES = {UNFUSED: "per formula", PAPERS: "paper's", OURS: "by bytes", TIMED: "as timed"}
"""Kernels, as the table calls them; the formulas below have the whole names."""


def _overheads(found: Estimate, boxed: bool) -> Table:
    names = tuple(_SCHEMES[scheme.name] for scheme in reversed(found.rows[0].schemes))
    numbers = (*names, "Step", "Parameters", "FLOPs")
    table = new_table(boxed, "n", "Connection", *numbers, right=("n", *numbers))
    for row in found.rows:
        overheads = [f"{scheme.overhead.value:.1f}" for scheme in reversed(row.schemes)]
        figures = map(figure_text, (row.ours.seconds, row.parameters, row.flops))
        table.add_row(str(row.n), row.connection, *overheads, *figures)
    return table


def _memory(found: Estimate, boxed: bool) -> Table:
    numbers = ("Memory", "kept", "Recomputed", "kept ", "Step")
    table = new_table(boxed, "n", "Connection", *numbers, right=("n", *numbers))
    for row in found.rows:
        figures = (row.memory, row.kept, row.memory_recomputed, row.kept_recomputed, row.seconds_recomputed)
        table.add_row(str(row.n), row.connection, *map(figure_text, figures))
    return table


def _formulas(found: Estimate) -> Table:
    return facts([(name, formula) for name, formula in found.formulas()])


def figure_text(figure: Figure | None) -> str:
    """A number with its unit; a dash where there is none."""
    return "-" if figure is None else quantity(figure.value, figure.unit)
