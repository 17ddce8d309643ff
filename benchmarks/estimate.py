"""`python -m benchmarks.estimate`: what `mhc_compile.estimate` says against what was measured, and the error.

On the CPU, the training step of the small GPT of `benchmarks.training_step` is measured at n = 2, 4 and 8, compiled,
one step of each candidate in turn. On the H100 it is the step of docs/kernels.md, measured once. `overhead` is how much
longer a step gets; the first `error` is that of the step, the second that of the overhead. Times on the CPU are
processor seconds of one thread, the fastest of all rounds: what else runs on the machine only adds to them.
"""

from __future__ import annotations

import argparse
import json
import sys
import time
from collections.abc import Sequence
from dataclasses import asdict, dataclass
from pathlib import Path

import torch
from rich.console import Console
from rich.table import Table

import mhc_compile
from benchmarks.gpts import Size, batch, ours, vanilla
from benchmarks.memory import CUDA_SIZE
from benchmarks.timing import interleaved, keep_freed_memory
from benchmarks.training_step import step

NUMBERS = (2, 4, 8)
BOUND = 25.0  # per cent
H100_PLAIN, H100_OURS = 62.0e-3, 88.2e-3  # docs/kernels.md, n = 4


@dataclass(frozen=True)
class Row:
    """One device and number of streams: seconds of a plain step and of ours, estimated and measured."""

    name: str
    plain: float
    plain_measured: float
    ours: float
    ours_measured: float

    @property
    def overhead(self) -> float:
        """Estimated, in per cent."""
        return 100 * (self.ours / self.plain - 1)

    @property
    def overhead_measured(self) -> float:
        """Measured, in per cent."""
        return 100 * (self.ours_measured / self.plain_measured - 1)

    @property
    def error(self) -> float:
        """Of the estimated overhead, in per cent of the measured one."""
        return 100 * (self.overhead / self.overhead_measured - 1)

    @property
    def step_error(self) -> float:
        """Of the estimated step, in per cent of the measured one."""
        return 100 * (self.ours / self.ours_measured - 1)


def h100() -> Row:
    """The GPT of docs/kernels.md."""
    with torch.device("meta"):
        model = vanilla_of(CUDA_SIZE)
        characters = torch.zeros(CUDA_SIZE.batch, CUDA_SIZE.context, dtype=torch.long)
    found = mhc_compile.estimate(model, "h100", n=4, example_inputs=(characters,))
    return Row("H100, n = 4", found.plain.seconds.value, H100_PLAIN, found.row(4).ours.seconds.value, H100_OURS)


def vanilla_of(size: Size) -> torch.nn.Module:
    """The plain GPT on the default device."""
    from examples.train_char_gpt import CharGPT

    return CharGPT(size.context, size.width, size.layers, size.heads)


def cpu(rounds: int) -> list[Row]:
    """The small GPT on this machine; the estimate measures the speeds of the CPU first."""
    size = Size()
    data, plain = batch(size), vanilla(size)
    found = mhc_compile.estimate(plain, "cpu", n=NUMBERS, example_inputs=(data[0],))
    models = {"vanilla": plain, **{f"n = {n}": ours(plain, n, data[0]) for n in NUMBERS}}
    compiled = {name: torch.compile(model, dynamic=False) for name, model in models.items()}
    timed = interleaved({name: step(model, data) for name, model in compiled.items()}, rounds, clock=time.process_time)
    base = timed["vanilla"].fastest
    return [
        Row(
            f"CPU, n = {n}", found.plain.seconds.value, base, found.row(n).ours.seconds.value, timed[f"n = {n}"].fastest
        )
        for n in NUMBERS
    ]


def main(arguments: Sequence[str] | None = None) -> int:
    """Measure, estimate, print; exit code 1 if an error is above the bound."""
    parser = argparse.ArgumentParser(prog="python -m benchmarks.estimate", description=__doc__)
    parser.add_argument("--rounds", type=int, default=21)
    parser.add_argument("--json", metavar="FILE", help="write the numbers there")
    o = parser.parse_args(arguments)
    keep_freed_memory()
    torch.set_num_threads(1)
    rows = [*cpu(o.rounds), h100()]
    Console().print(_table(rows))
    if o.json:
        numbers = {"torch": torch.__version__, "bound": BOUND, "rows": [asdict(row) for row in rows]}
        Path(o.json).write_text(json.dumps(numbers, indent=1) + "\n")
    return _judge(rows)


def _table(rows: Sequence[Row]) -> Table:
    made = Table("", box=None, pad_edge=False)
    heads = ("plain ms", "measured", "ours ms", "measured ", "error %", "overhead %", "measured  ", "error % ")
    for name in heads:
        made.add_column(name, justify="right", no_wrap=True)
    for row in rows:
        times = (f"{1e3 * value:.1f}" for value in (row.plain, row.plain_measured, row.ours, row.ours_measured))
        overheads = (f"{row.overhead:.1f}", f"{row.overhead_measured:.1f}", f"{row.error:+.0f}")
        made.add_row(row.name, *times, f"{row.step_error:+.0f}", *overheads)
    return made


def _judge(rows: Sequence[Row]) -> int:
    """The overhead on the CPU, the step on the H100."""
    errors = {row.name: row.step_error if row.name.startswith("H100") else row.error for row in rows}
    missed = [f"{name} {error:+.0f} %" for name, error in errors.items() if abs(error) > BOUND]
    result = f"MISSED {', '.join(missed)}" if missed else "met"
    print(f"overhead on the CPU and step on the H100 within {BOUND:.0f} %: {result}")
    return 1 if missed else 0


if __name__ == "__main__":
    sys.exit(main())
