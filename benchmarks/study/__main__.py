"""`python -m benchmarks.study [--short]`: every run, a table, drawings; goes on where it was if it was stopped."""

from __future__ import annotations

import argparse
import json
import sys
import time
from collections.abc import Sequence
from pathlib import Path

from rich.console import Console
from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeRemainingColumn

from benchmarks.study.drawings import write_drawings
from benchmarks.study.plan import Run, plan_runs
from benchmarks.study.results import Results, outside, rows_of, table, to_dict
from benchmarks.study.train import is_done, train

HERE = Path(__file__).parent


def main(arguments: Sequence[str] | None = None) -> int:
    """Run what is missing; 1 if a loss is out of its band, 3 if time was up before all runs were finished."""
    options = _parse(arguments)
    folder = Path(options.out) / ("short" if options.short else "full")
    runs = [run for run in plan_runs(options.short) if not options.only or run.name.startswith(tuple(options.only))]
    results = _all_results(runs, folder, options.minutes)
    if not results:
        return 3
    rows = rows_of(results)
    print(table(rows))
    found = to_dict(rows, options.short)
    (folder / "study.json").write_text(json.dumps(found, indent=1))
    paths = write_drawings(results, rows, folder)
    print(f"{len(results)} of {len(runs)} runs; {folder / 'study.json'}; {len(paths)} drawings")
    if len(results) < len(runs):
        return 3
    known = HERE / ("short.json" if options.short else "full.json")
    wrong = outside(rows, json.loads(known.read_text())["bands"]) if known.exists() else []
    print("\n".join(wrong))
    return 1 if wrong else 0


def _all_results(runs: Sequence[Run], folder: Path, minutes: float | None) -> Results:
    """The results of all runs that are finished when the time is up."""
    stop = time.monotonic() + 60 * minutes if minutes else float("inf")
    results = {}
    console = Console(stderr=True)
    columns = (TextColumn("{task.description:28}"), BarColumn(), MofNCompleteColumn(), TimeRemainingColumn())
    with Progress(*columns, console=console, transient=True, disable=not console.is_terminal) as progress:
        everything = progress.add_task("steps of all runs", total=sum(run.size.steps for run in runs))
        before = 0
        for run in runs:
            begun = is_done(run, folder)

            def on_step(step: int, run: Run = run, before: int = before) -> bool:
                progress.update(everything, completed=before + step, description=run.name)
                return time.monotonic() < stop

            result = train(run, folder, on_step)
            if result is None:
                break
            results[run] = result
            before += run.size.steps
            progress.update(everything, completed=before)
            if not begun:
                print(f"{run.name}: validation {result['validation']:.4f}", file=sys.stderr, flush=True)
    return results


def _parse(arguments: Sequence[str] | None) -> argparse.Namespace:
    parser = argparse.ArgumentParser(prog="python -m benchmarks.study", description=__doc__)
    parser.add_argument("--short", action="store_true", help="fewer and shorter runs, minutes instead of hours")
    parser.add_argument("--out", default="build/study", metavar="DIR", help="default: %(default)s")
    parser.add_argument("--only", nargs="+", metavar="NAME", help="runs whose names begin so, such as gpt-mhc")
    parser.add_argument("--minutes", type=float, metavar="M", help="stop after so long; the next call goes on")
    return parser.parse_args(arguments)


if __name__ == "__main__":
    sys.exit(main())
