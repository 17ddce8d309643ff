"""`python -m tests.mutants.run`: deliberate faults, one at a time, and which test catches each.

Every fault is put into a copy of the tree, and the tests that belong to it run there, until one fails. First they run
without any fault: what fails then tells nothing.
"""

from __future__ import annotations

import argparse
import json
import sys
from collections.abc import Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor, as_completed
from dataclasses import asdict
from fnmatch import fnmatch
from pathlib import Path
from tempfile import TemporaryDirectory

from rich.console import Console
from rich.table import Table

from tests.mutants.faults import MUTANTS
from tests.mutants.mutant import AREAS, Mutant, Project
from tests.mutants.trial import Outcome, Verdict, attempt, copied, run_tests

PROJECT = Project(Path(__file__).resolve().parents[2], "mhc_compile")
CACHES = PROJECT.root / "build" / "mutants"
Row = tuple[Mutant, Outcome]


def main(arguments: Sequence[str] | None = None) -> int:
    """Try the faults, print a row for each and the totals.

    Returns:
        Exit code: 0 if each is caught or excused, 1 if one is not, 2 if none is meant or the tests fail without one.
    """
    options = _parse(arguments)
    chosen = [m for m in MUTANTS if any(fnmatch(f"{m.area}: {m.name}", glob) for glob in options.only)]
    console = Console(width=None if sys.stdout.isatty() else 200)
    if not chosen:
        console.print(f"no fault matches {' '.join(options.only)}: write a glob such as 'fuse:*'", markup=False)
        return 2
    sources = PROJECT.sources()
    for mutant in chosen:
        PROJECT.find(mutant, sources)  # before any of them is tried
    if not options.trust and not _passes_without(chosen, options.timeout, console):
        return 2
    rows = []
    for row in _try_all(chosen, options.jobs, options.timeout):
        rows.append(row)
        console.print(
            line(*row), style=None if accepted(*row) else "red", markup=False, highlight=False, soft_wrap=True
        )
        if options.json:
            _write(rows, options.json)
    console.print(totals(rows))
    return 0 if all(accepted(*row) for row in rows) else 1


def line(mutant: Mutant, outcome: Outcome) -> str:
    """One row: the fault, and who caught it or why nobody does."""
    told = outcome.by or mutant.excuse
    if outcome.verdict is Verdict.BROKEN:
        told = outcome.output[-2000:]
    return f"{mutant.area:11} {mutant.name:52} {outcome.seconds:5.1f} s  {outcome.verdict.value:10}  {told}".rstrip()


def accepted(mutant: Mutant, outcome: Outcome) -> bool:
    """Whether a fault is caught, or known not to be; an excuse for one that is caught is out of date."""
    return outcome.verdict is (Verdict.MISSED if mutant.excuse else Verdict.CAUGHT)


def totals(rows: Sequence[Row]) -> Table:
    """How many were caught in each area."""
    table = Table("area", "faults", "caught", title="Faults")
    for area in (*AREAS, ""):
        own = [outcome for mutant, outcome in rows if area in ("", mutant.area)]
        if own:
            caught = sum(outcome.verdict is Verdict.CAUGHT for outcome in own)
            table.add_row(area or "all", str(len(own)), str(caught), end_section=area == AREAS[-1])
    return table


def _passes_without(mutants: Sequence[Mutant], timeout: float, console: Console) -> bool:
    """Whether the tests of all mutants pass as long as nothing is wrong."""
    fine = True
    with TemporaryDirectory(prefix="mutant-") as folder:
        copy = copied(PROJECT, Path(folder).resolve() / "tree")
        for interpreted in sorted({mutant.interpreted for mutant in mutants}):
            own = [mutant for mutant in mutants if mutant.interpreted is interpreted]
            tests = tuple(dict.fromkeys(test for mutant in own for test in mutant.tests))
            limit = timeout * len(tests)
            outcome = run_tests(copy, tests, timeout=limit, caches=CACHES, interpreted=interpreted)
            passed = outcome.verdict is Verdict.MISSED
            told = "pass" if passed else f"do not pass: {outcome.by or outcome.output[-2000:]}"
            console.print(f"without a fault the tests {told} ({outcome.seconds:.0f} s)", markup=False, highlight=False)
            fine &= passed
    return fine


def _try_all(mutants: Sequence[Mutant], jobs: int, timeout: float) -> Iterator[Row]:
    """Trials as they end. They wait for processes of their own, so threads will do."""
    with ThreadPoolExecutor(jobs) as pool:
        trials = {pool.submit(attempt, PROJECT, m, timeout=timeout, caches=CACHES): m for m in mutants}
        for trial in as_completed(trials):
            yield trials[trial], trial.result()


def _write(rows: Sequence[Row], path: str) -> None:
    found = [
        {"area": m.area, "name": m.name, "verdict": o.verdict.value, "by": o.by, "seconds": round(o.seconds, 1)}
        | {key: value for key, value in asdict(m).items() if key in ("tests", "excuse")}
        for m, o in rows
    ]
    Path(path).write_text(json.dumps(found, indent=1) + "\n")


def _parse(arguments: Sequence[str] | None) -> argparse.Namespace:
    parser = argparse.ArgumentParser(prog="python -m tests.mutants.run", description=__doc__)
    parser.add_argument("--only", nargs="+", default=["*"], metavar="GLOB", help="such as 'fuse:*' or '*axis*'")
    parser.add_argument("--jobs", type=int, default=2, metavar="N", help="trials at a time (default: %(default)s)")
    parser.add_argument("--timeout", type=float, default=300, metavar="SECONDS", help="for one (default: %(default)s)")
    parser.add_argument("--json", metavar="FILE", help="write the rows there, after each")
    parser.add_argument("--trust", action="store_true", help="do not run the tests without a fault first")
    return parser.parse_args(arguments)


if __name__ == "__main__":
    sys.exit(main())
