"""`python -m tests.zoo.run`: every model of the zoo through `mhc_compile.transform`, one row per model.

With `--through backend` it goes through `mhc_compile.backend` instead, which must find the same sites; `--inner` names
what compiles the rewritten graphs.
"""

from __future__ import annotations

import argparse
import json
import os
import sys
import warnings
from collections.abc import Callable, Sequence
from dataclasses import asdict
from fnmatch import fnmatch
from functools import partial
from pathlib import Path

import torch
from rich.console import Console
from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeElapsedColumn

from tests.zoo.build import EXPECTED
from tests.zoo.checks import Result, check
from tests.zoo.workers import call_isolated


def main(arguments: Sequence[str] | None = None) -> int:
    """Run the checks, print a row per model and the totals.

    Returns:
        Exit code: 0 if every model passed, 1 if one failed, 2 if no model is meant.
    """
    options = _parse(arguments)
    targets = [target for target in EXPECTED if any(fnmatch(target, glob) for glob in options.only)]
    console = Console(width=None if sys.stdout.isatty() else 160)
    if not targets:
        console.print(
            f"no model matches {' '.join(options.only)}: write a glob such as 'hf:*' or 'timm:vit*'", markup=False
        )
        return 2
    call = check_one if options.through == "transform" else partial(check_compiled, inner=options.inner)
    results = _run(targets, call, options.jobs, options.timeout, console)
    if options.json:
        Path(options.json).write_text(json.dumps([asdict(result) for result in results], indent=1) + "\n")
    failed = [result for result in results if not result.passed]
    refused = sum(result.passed and result.sites is None for result in results)
    console.print(
        f"{len(results)} models: {len(results) - len(failed)} passed ({refused} refused), {len(failed)} failed"
    )
    return 1 if failed else 0


def check_one(target: str) -> Result:
    """All checks on one model, in a worker process."""
    warnings.filterwarnings("ignore")
    torch.set_num_threads(1)
    from mhc_compile import transform

    return check(target, transform)


def check_compiled(target: str, inner: str = "eager") -> Result:
    """The same through the backend, in double precision."""
    warnings.filterwarnings("ignore")
    torch.set_num_threads(1)
    from tests.zoo.compiled import compiled

    facts = EXPECTED[target]
    if facts.get("graphs", 1) != 1 or facts.get("graphs_train", 1) != 1:
        facts = {**facts, "sites": None}  # what a graph break cuts is no site
    return check(target, partial(compiled, inner=inner), expected=facts, dtypes=(torch.float64,))


def row(result: Result) -> str:
    """One line of the table."""
    verdict = "ok  " if result.passed else "FAIL"
    found = "-" if result.sites is None else str(result.sites)
    wanted = "any" if result.expected is None else str(result.expected)
    errors = " ".join(f"{_short(name)} {error:.0e}" for name, error in result.errors.items())
    remarks = "; ".join([*filter(None, [result.failure]), *result.notes])
    return f"{verdict} {result.target:34} {found:>3}/{wanted:<3} {result.seconds:5.1f} s  {errors}  {remarks}".rstrip()


def _short(name: str) -> str:
    """`eval float64` as `eval64`."""
    mode, dtype = name.split()
    return mode + dtype.removeprefix("float").replace("bfloat16", "bf16")


def _run(
    targets: Sequence[str], call: Callable[[str], Result], jobs: int, timeout: float, console: Console
) -> list[Result]:
    results: list[Result] = []
    columns = (TextColumn("zoo"), BarColumn(), MofNCompleteColumn(), TimeElapsedColumn())
    with Progress(*columns, console=console, disable=not console.is_terminal) as progress:
        task = progress.add_task("zoo", total=len(targets))
        for target, found, reason in call_isolated(call, targets, jobs=jobs, timeout=timeout):
            result = found or Result(target, EXPECTED[target]["sites"], failure=reason)
            results.append(result)
            style = None if result.passed else "red"
            progress.console.print(row(result), style=style, markup=False, highlight=False, soft_wrap=True)
            progress.advance(task)
    return sorted(results, key=lambda result: targets.index(result.target))


def _parse(arguments: Sequence[str] | None) -> argparse.Namespace:
    parser = argparse.ArgumentParser(prog="python -m tests.zoo.run", description=__doc__)
    parser.add_argument("--only", nargs="+", default=["*"], metavar="GLOB", help="models to run, for example 'hf:*'")
    parser.add_argument("--through", choices=("transform", "backend"), default="transform", help="default: %(default)s")
    parser.add_argument(
        "--inner", default="eager", help="inner backend, behind --through backend (default: %(default)s)"
    )
    parser.add_argument("--json", metavar="FILE", help="write the results there")
    parser.add_argument("--jobs", type=int, default=max(1, (os.cpu_count() or 1) // 2), help="processes")
    parser.add_argument("--timeout", type=float, default=900.0, help="seconds until a model counts as hanging")
    return parser.parse_args(arguments)


if __name__ == "__main__":
    sys.exit(main())
