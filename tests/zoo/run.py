"""`python -m tests.zoo.run`: every model of the zoo through `mhc_compile.transform`, one row per model.

With `--through backend` it goes through `mhc_compile.backend` instead, which must find the same sites; `--inner` names
what compiles the rewritten graphs. With `--calls` every language model is trained and generates as its users write it,
and with `--doors` modules of every model are called from outside; both say what ran in one graph, and what through
Dynamo. With `--verify` new parameters are moved, and both modes must be what plain formulas of the plan are.
`--connection` takes another connection through `transform`; of one that does not keep the function of every
model, results are to be finite and parameters to learn. Models whose package is not installed are named as skipped.
"""

from __future__ import annotations

import argparse
import json
import logging
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
from tests.zoo.calls import CallsResult, check_calls
from tests.zoo.checks import check
from tests.zoo.doors import DoorsResult, check_doors
from tests.zoo.generators import generators
from tests.zoo.result import Result
from tests.zoo.second import missing
from tests.zoo.verified import check_verified
from tests.zoo.ways import ONE_GRAPH
from tests.zoo.workers import call_isolated

AnyResult = Result | CallsResult | DoorsResult


def main(arguments: Sequence[str] | None = None) -> int:
    """Run the checks, print a row per model and the totals.

    Returns:
        Exit code: 0 if every model passed, 1 if one failed, 2 if no model is meant.
    """
    options = _parse(arguments)
    known = generators() if options.calls else list(EXPECTED)
    targets = [target for target in known if any(fnmatch(target, glob) for glob in options.only)]
    console = Console(width=None if sys.stdout.isatty() else 160)
    if not targets:
        console.print(
            f"no model matches {' '.join(options.only)}: write a glob such as 'hf:*' or 'timm:vit*'", markup=False
        )
        return 2
    skipped = [target for target in targets if missing(target)]
    for target in skipped:
        console.print(f"skip {target:34} {missing(target)}", markup=False, highlight=False, soft_wrap=True)
    targets = [target for target in targets if target not in skipped]
    results = _run(targets, _check_of(options), options.jobs, options.timeout, console)
    if options.json:
        Path(options.json).write_text(json.dumps([asdict(result) for result in results], indent=1) + "\n")
    failed = [result for result in results if not result.passed]
    passed = f"{len(results) - len(failed)} passed ({_how(results)})"
    console.print(f"{len(results)} models: {passed}, {len(failed)} failed, {len(skipped)} skipped")
    return 1 if failed else 0


def _check_of(options: argparse.Namespace) -> Callable[[str], AnyResult]:
    if options.calls:
        return check_calls_of
    if options.doors:
        return check_doors_of
    if options.verify:
        return check_verified_of
    if options.through == "transform":
        return partial(check_one, connection=options.connection)
    return partial(check_compiled, inner=options.inner)


def _how(results: Sequence[AnyResult]) -> str:
    """How the models that passed did: how many were refused, or which way their calls went."""
    passed = [result for result in results if result.passed]
    if all(isinstance(result, Result) for result in passed):
        return f"{sum(isinstance(result, Result) and result.sites is None for result in passed)} refused"
    ways = [set(result.ways.values()) for result in passed if not isinstance(result, Result)]
    alone = sum(way <= {ONE_GRAPH} for way in ways)
    return f"{alone} in one graph each, {len(ways) - alone} with calls through Dynamo"


def check_one(target: str, connection: str = "mhc") -> Result:
    """All checks on one model, in a worker process."""
    warnings.filterwarnings("ignore")
    torch.set_num_threads(1)
    from mhc_compile import transform
    from mhc_compile.kernels.formulas.connections import why_not_kept

    return check(target, partial(transform, connection=connection), kept=not why_not_kept(connection, 4))


def check_compiled(target: str, inner: str = "eager") -> Result:
    """The same through the backend, in double precision."""
    warnings.filterwarnings("ignore")
    torch.set_num_threads(1)
    from tests.zoo.compiled import compiled

    facts = EXPECTED[target]
    if facts.get("graphs", 1) != 1 or facts.get("graphs_train", 1) != 1:
        facts = {**facts, "sites": None}  # what a graph break cuts is no site
    return check(target, partial(compiled, inner=inner), expected=facts, dtypes=(torch.float64,))


def check_calls_of(target: str) -> CallsResult:
    """The calls of one language model, in a worker process."""
    _quiet()
    return check_calls(target)


def check_doors_of(target: str) -> DoorsResult:
    """Modules of one model called from outside, in a worker process."""
    _quiet()
    return check_doors(target)


def check_verified_of(target: str) -> Result:
    """What `verify` says of one model, in a worker process."""
    _quiet()
    return check_verified(target)


def _quiet() -> None:
    warnings.filterwarnings("ignore")
    logging.disable()  # what transformers says about generating
    torch.set_num_threads(1)


def row(result: AnyResult) -> str:
    """One line of the table."""
    verdict = "ok  " if result.passed else "FAIL"
    if not isinstance(result, Result):
        ways = ", ".join(f"{name}: {way}" for name, way in result.ways.items())
        remarks = "; ".join([*filter(None, [result.failure]), *result.notes])
        return f"{verdict} {result.target:34} {result.seconds:5.1f} s  {ways}  {remarks}".rstrip()
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
    targets: Sequence[str], call: Callable[[str], AnyResult], jobs: int, timeout: float, console: Console
) -> list[AnyResult]:
    results: list[AnyResult] = []
    columns = (TextColumn("zoo"), BarColumn(), MofNCompleteColumn(), TimeElapsedColumn())
    with Progress(*columns, console=console, disable=not console.is_terminal) as progress:
        task = progress.add_task("zoo", total=len(targets))
        for target, found, reason in call_isolated(call, targets, jobs=jobs, timeout=timeout):
            result = found or _lost(call, target, reason)
            results.append(result)
            style = None if result.passed else "red"
            progress.console.print(row(result), style=style, markup=False, highlight=False, soft_wrap=True)
            progress.advance(task)
    return sorted(results, key=lambda result: targets.index(result.target))


def _lost(call: Callable[[str], AnyResult], target: str, reason: str) -> AnyResult:
    """The outcome for a model whose process has given none."""
    if call is check_calls_of:
        return CallsResult(target, failure=reason)
    if call is check_doors_of:
        return DoorsResult(target, failure=reason)
    return Result(target, EXPECTED[target]["sites"], failure=reason)


def _parse(arguments: Sequence[str] | None) -> argparse.Namespace:
    parser = argparse.ArgumentParser(prog="python -m tests.zoo.run", description=__doc__)
    parser.add_argument("--only", nargs="+", default=["*"], metavar="GLOB", help="models to run, for example 'hf:*'")
    which = parser.add_mutually_exclusive_group()
    which.add_argument("--calls", action="store_true", help="train language models and generate")
    which.add_argument("--doors", action="store_true", help="call modules of the models from outside")
    which.add_argument(
        "--verify", action="store_true", help="move new parameters, compare with the formulas of the plan"
    )
    parser.add_argument("--connection", default="mhc", help="through transform; default: %(default)s")
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
