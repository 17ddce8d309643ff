"""Fuzz the passes on many drawn networks: `python -m tests.fuzz.run --cases 10000 --seed 0`.

With `--what calls` it is the calls of transformed models, and what is done to them in between; with `whole_calls` those
of the networks that are drawn for the passes.

Cases are drawn in batches, each with a seed of its own, by one process per core. The first failing batch is shrunk by
hypothesis; the smallest network found is printed as data to paste into Python, and the exit code is 1.
"""

from __future__ import annotations

import argparse
import os
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from typing import Any

import torch
from hypothesis import HealthCheck, Phase, given, settings
from hypothesis import seed as hypothesis_seed
from hypothesis import strategies as st
from rich.console import Console
from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeRemainingColumn

from tests.fuzz.actions import Action
from tests.fuzz.calls import cases, check_calls
from tests.fuzz.checks import check_traced
from tests.fuzz.generator import networks
from tests.fuzz.spec import Network
from tests.fuzz.streams import Drawn
from tests.fuzz.whole_calls import cases as whole_cases
from tests.fuzz.whole_calls import check_whole_calls
from tests.zoo.workers import call_isolated

BATCH = 50
TOLD = 500  # cases between two lines of a log
TIMEOUT = 3600.0  # seconds of a batch, with shrinking
MEMORY = 2.0  # GiB after which a process is replaced: Dynamo keeps its guards of code that is gone
LEARN_EVERY = 5  # one case in so many is also trained


@dataclass(frozen=True)
class Failure:
    """The smallest failing network of a batch."""

    seed: int
    network: Any
    message: str


def check(net: Network) -> None:
    """The checks of one case; which ones depends on its seed alone, so that it can be replayed."""
    check_traced(net, learn=net.seed % LEARN_EVERY == 0)


def check_whole_case(case: tuple[Network, tuple[Action, ...]]) -> None:
    """The checks of a whole network and what is done to it."""
    check_whole_calls(*case)


def check_case(case: tuple[Drawn, tuple[Action, ...]]) -> None:
    """The checks of a drawn network and what is done to it."""
    check_calls(*case)


DRAWN: dict[str, tuple[Callable[[], st.SearchStrategy[Any]], Callable[[Any], None], str]] = {
    "networks": (networks, lambda net: check(net), "from tests.fuzz.run import check\nfrom tests.fuzz.spec import *"),
    "calls": (cases, check_case, "from tests.fuzz.run import check_case as check\nfrom tests.fuzz.streams import *"),
    "whole_calls": (
        whole_cases,
        check_whole_case,
        "from tests.fuzz.run import check_whole_case as check\nfrom tests.fuzz.spec import *",
    ),
}
"""What can be drawn, how it is checked, and the imports to do it again."""


def run_batch(seed: int, cases: int, what: str = "networks") -> Failure | None:
    """Draw and check `cases` networks; the smallest failing one, or None."""
    draw_from, check_one, _ = DRAWN[what]
    torch.set_num_threads(1)
    failures: list[Failure] = []

    @hypothesis_seed(seed)
    @settings(max_examples=cases, deadline=None, database=None, suppress_health_check=list(HealthCheck),
              phases=[Phase.generate, Phase.shrink], report_multiple_bugs=False)  # fmt: skip
    @given(draw_from())
    def draw(net: Any) -> None:
        try:
            check_one(net)
        except Exception as error:
            failures.append(Failure(seed, net, f"{type(error).__name__}: {error}"))
            raise

    try:
        draw()
    except Exception:
        return failures[-1]  # hypothesis replays the smallest one last
    return None


def run_task(task: str) -> Failure | None:
    """`run_batch` of its arguments in one text, as workers take them."""
    what, seed, cases = task.split()
    return run_batch(int(seed), int(cases), what)


def fuzz(cases: int, seed: int, jobs: int, what: str) -> Iterator[tuple[int, Failure | None]]:
    """Number of cases and the failure of each batch, as they end."""
    sizes = [min(BATCH, cases - start) for start in range(0, cases, BATCH)]
    tasks = [f"{what} {seed + i} {size}" for i, size in enumerate(sizes)]
    for task, failure, why in call_isolated(run_task, tasks, jobs=jobs, timeout=TIMEOUT, memory=MEMORY):
        number, size = map(int, task.split()[1:])
        yield size, Failure(number, None, why) if why else failure


def main(arguments: list[str] | None = None) -> int:
    """Entry point; 0 if no case failed."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--cases", type=int, default=10_000)
    parser.add_argument("--seed", type=int, default=0, help="seed of the first batch, the next has one more")
    parser.add_argument("--what", choices=[*DRAWN], default="networks")
    parser.add_argument("--jobs", type=int, default=os.cpu_count() or 1)
    options = parser.parse_args(arguments)
    console = Console()
    columns = (TextColumn("fuzz"), BarColumn(), MofNCompleteColumn(), TimeRemainingColumn())
    with Progress(*columns, console=console) as progress:
        task, done = progress.add_task("fuzz", total=options.cases), 0
        for cases, failure in fuzz(options.cases, options.seed, options.jobs, options.what):
            progress.advance(task, cases)
            done += cases
            if not console.is_terminal and done % TOLD == 0:  # a log shows no bar
                console.print(f"{done} of {options.cases}")
            if failure is not None:
                console.print(report(failure, options.what), markup=False, highlight=False)
                return 1
    console.print(f"{options.cases} {options.what}, no failure")
    return 0


def report(failure: Failure, what: str = "networks") -> str:
    """What failed and how to run it again."""
    if failure.network is None:  # its process ended, or never came to an end
        again = f"python -m tests.fuzz.run --what {what} --seed {failure.seed} --cases {BATCH} --jobs 1"
        return f"{failure.message}, in the batch of seed {failure.seed}: {again}"
    return (
        f"{failure.message}\n\nsmallest failing network (batch seed {failure.seed}), to run it again:\n"
        f"{DRAWN[what][2]}\ncheck({failure.network!r})"
    )


if __name__ == "__main__":
    raise SystemExit(main())
