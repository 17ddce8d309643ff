"""How long `transform` takes over the zoo, beside another commit in the same run.

    python -m benchmarks.transforms --before be64845 --json build/bench/transforms.json

Both trees answer in turn, each in a process of its own that stays warm; every model is built anew for every round.
Processor time is counted, which other work on the machine adds little to, and the median over rounds is compared. A
model that is not faster at once gets at least three rounds, and seven before it is called slower than the bound.
"""

from __future__ import annotations

import argparse
import json
import os
import statistics
import subprocess
import sys
import tempfile
from collections.abc import Sequence
from dataclasses import asdict, dataclass
from fnmatch import fnmatch
from pathlib import Path

from rich.console import Console
from rich.table import Table

from benchmarks.transforms_worker import MARK

BOUND = 1.10
ROUNDS, MORE_ROUNDS, MOST_ROUNDS = 1, 3, 7
ROOT = Path(__file__).resolve().parents[1]
PARTS = ("passes", "kernels")  # of the package, at the root of the repository
WORST = 12


@dataclass(frozen=True)
class Compared:
    """Seconds of one model before and after, medians; `refused` is what the tree before said instead."""

    target: str
    before: float | None
    after: float
    rounds: int
    refused: str = ""

    @property
    def ratio(self) -> float:
        """Time after over time before; 0 where there is none before."""
        return self.after / self.before if self.before else 0.0


class Worker:
    """One tree, in a process of its own."""

    def __init__(self, tree: Path) -> None:
        """Start the process; its imports are done when it answers first."""
        command = [sys.executable, str(ROOT / "benchmarks" / "transforms_worker.py"), str(tree)]
        pipe = subprocess.PIPE
        self._process = subprocess.Popen(command, stdin=pipe, stdout=pipe, stderr=subprocess.DEVNULL, text=True)

    def __call__(self, target: str) -> float | str:
        """Seconds of `transform` on one model, or what was raised.

        Raises:
            RuntimeError: the process has ended.
        """
        assert self._process.stdin and self._process.stdout
        self._process.stdin.write(target + "\n")
        self._process.stdin.flush()
        for line in self._process.stdout:
            if line.startswith(MARK):
                answer = json.loads(line.removeprefix(MARK))
                return answer["error"] if "error" in answer else float(answer["seconds"])
        raise RuntimeError(f"the process that transforms {target} ended with {self._process.wait()}")

    def end(self) -> None:
        """Stop the process."""
        self._process.kill()
        self._process.wait()


def main(arguments: Sequence[str] | None = None) -> int:
    """Print the slowest models against the bound; exit code 1 if one of them misses it."""
    options = _parse(arguments)
    from tests.zoo.build import FIRST  # late: imports transformers

    targets = [target for target in FIRST if any(fnmatch(target, glob) for glob in options.only)]
    console = Console(width=None if sys.stdout.isatty() else 120)
    with tempfile.TemporaryDirectory() as folder:
        before, after = Worker(tree_of(options.before, Path(folder))), Worker(ROOT)
        try:
            for worker in (before, after):
                worker(targets[0])  # what is imported and built at the first call is not part of it
            rows = [_compare(target, before, after, options.rounds, console) for target in targets]
        finally:
            before.end()
            after.end()
    if options.json:
        Path(options.json).write_text(json.dumps([asdict(row) for row in rows], indent=1) + "\n")
    _show(rows, console)
    return 1 if any(row.ratio > BOUND for row in rows) else 0


def tree_of(commit: str, folder: Path) -> Path:
    """The files of a commit under `folder`, with the links by which they are a package."""
    archive = subprocess.run(["git", "-C", str(ROOT), "archive", commit], check=True, capture_output=True).stdout
    subprocess.run(["tar", "-x", "-C", str(folder)], input=archive, check=True)
    for part in PARTS:
        link = folder / "mhc_compile" / part
        if not os.path.lexists(link):
            link.symlink_to(Path("..") / part)
    return folder


def _compare(target: str, before: Worker, after: Worker, rounds: int, console: Console) -> Compared:
    """Both trees in turn, more often where the bound looks missed."""
    seconds: tuple[list[float], list[float]] = ([], [])
    while True:
        old, new = before(target), after(target)
        if isinstance(new, str):
            raise RuntimeError(f"{target}: {new}")
        seconds[1].append(new)
        if isinstance(old, float):
            seconds[0].append(old)
        refused = old.splitlines()[0] if isinstance(old, str) else ""
        middle = statistics.median(seconds[0]) if seconds[0] else None
        row = Compared(target, middle, statistics.median(seconds[1]), len(seconds[1]), refused)
        enough = rounds if row.ratio <= 1.0 else max(rounds, MORE_ROUNDS)
        if row.rounds >= MOST_ROUNDS or (row.rounds >= enough and row.ratio <= BOUND):
            text = f"{target:34} {row.ratio:5.2f}  {row.rounds} rounds  {refused}"
            console.print(text, markup=False, highlight=False, soft_wrap=True)
            return row


def _show(rows: Sequence[Compared], console: Console) -> None:
    both = [row for row in rows if row.before]
    table = Table(title="transform over the zoo: the models that grew most")
    for column in ("model", "before, s", "after, s", "after / before"):
        table.add_column(column, justify="left" if column == "model" else "right")
    for row in sorted(both, key=lambda row: -row.ratio)[:WORST]:
        table.add_row(row.target, f"{row.before:.2f}", f"{row.after:.2f}", f"{row.ratio:.2f}")
    console.print(table)
    ratios = [row.ratio for row in both]
    slower = sum(ratio > BOUND for ratio in ratios)
    whole = sum(row.after for row in both) / sum(row.before or 0.0 for row in both)
    console.print(
        f"{len(both)} models: median {statistics.median(ratios):.2f}, together {whole:.2f}; {slower} above {BOUND}; "
        f"{len(rows) - len(both)} more were refused before"
    )


def _parse(arguments: Sequence[str] | None) -> argparse.Namespace:
    parser = argparse.ArgumentParser(prog="python -m benchmarks.transforms", description=__doc__.splitlines()[0])
    parser.add_argument("--before", required=True, metavar="COMMIT", help="the commit to compare with")
    parser.add_argument("--only", nargs="+", default=["*"], metavar="GLOB", help="models, for example 'hf:*'")
    parser.add_argument("--rounds", type=int, default=ROUNDS, help="at least; default: %(default)s")
    parser.add_argument("--json", metavar="FILE", help="write the results there")
    return parser.parse_args(arguments)


if __name__ == "__main__":
    sys.exit(main())
