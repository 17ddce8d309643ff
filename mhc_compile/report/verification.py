"""The table of what was verified, for a terminal or a pipe."""

from __future__ import annotations

from rich.console import Console
from rich.text import Text

from mhc_compile.report.parts import facts, new_table, section
from mhc_compile.verification.examine import Check, Verification
from mhc_compile.wording import count_text


def render_verification(found: Verification, console: Console, *, target: str) -> None:
    """Print one row for each check, and whether all hold.

    Args:
        found: what to report.
        console: where to; a console that is no terminal gets plain lines without boxes.
        target: name of the model, for the header.
    """
    console.print(facts([("target", target), ("sites", str(found.sites)), ("result", _summary(found))]))
    figures = ("Difference", "Allowed")
    table = new_table(console.is_terminal, "Mode", "Claim", *figures, "Holds", right=figures)
    for check in found.checks:
        table.add_row(check.mode or "both", check.what, *_figures(check), _verdict(check))
    section(console, "Claims", table)


def _summary(found: Verification) -> str:
    made = [check for check in found.checks if check.distance is not None]
    if found.failures:
        return f"{count_text(len(found.failures), 'claim')} of {len(made)} not true"
    verb = "holds" if len(made) == 1 else "hold"
    return f"{count_text(len(made), 'claim')} {verb}" if made else "nothing was compared"


def _figures(check: Check) -> tuple[str, str]:
    return ("", "") if check.distance is None else (f"{check.distance:.1e}", f"{check.allowed:.0e}")


def _verdict(check: Check) -> Text:
    if check.distance is None:
        return Text(check.note, style="dim")
    return Text(f"no: {check.note}" if check.note else "no", style="bold red") if check.failed else Text("yes", "green")
