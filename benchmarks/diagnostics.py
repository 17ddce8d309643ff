"""`python -m benchmarks.diagnostics`: what a `Recorder` adds to a training, at a record every 100 steps.

The benchmark GPT (C = 384, 8 sites, 1,024 tokens), one step without a record and one with in turn, processor time of
one thread. The bound is 1 % of 100 steps, that is, one step.
"""

from __future__ import annotations

import argparse
import json
import statistics
import sys
import time
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path

import torch

import mhc_compile
from benchmarks.gpts import Size, batch, loss_of, ours, vanilla
from benchmarks.timing import keep_freed_memory
from mhc_compile.diagnostics.recorder import Recorder

BOUND, EVERY = 0.01, 100


def main(arguments: Sequence[str] | None = None) -> int:
    """Print the table; 1 if the bound is missed."""
    options = _parse(arguments)
    keep_freed_memory()
    torch.set_num_threads(1)
    size = Size(width=64, layers=2, heads=2, batch=2, context=32) if options.short else Size()
    rows = [_row(size, connection, options.rounds) for connection in ("mhc", "hc")]
    for row in rows:
        print(f"{row['connection']:6} step {1e3 * row['step']:8.1f} ms, with a record {1e3 * row['recorded']:8.1f} ms: "
              f"+ {100 * row['overhead']:.3f} % at every {EVERY} steps")  # fmt: skip
    if options.json:
        Path(options.json).write_text(json.dumps(rows, indent=2))
    return int(any(row["overhead"] > BOUND for row in rows))


def _row(size: Size, connection: str, rounds: int) -> dict[str, float | str]:
    characters, following = batch(size)
    model = ours(vanilla(size), 4, characters, connection=connection)
    optimizer = torch.optim.AdamW(mhc_compile.parameter_groups(model), lr=1e-3)

    def stepping(recorder: Recorder) -> Callable[[], None]:
        def step() -> None:
            with recorder.step():
                optimizer.zero_grad()
                loss_of(model, characters, following).backward()
                optimizer.step()

        return step

    recorders = {"step": Recorder(model, 10**9, start=1), "recorded": Recorder(model, 1, on_alarm=lambda alarm: None)}
    steps = {name: stepping(recorder) for name, recorder in recorders.items()}
    plain, recorded = (statistics.median(times) for times in _processor_seconds(steps, rounds))
    return {
        "connection": connection,
        "step": plain,
        "recorded": recorded,
        "overhead": (recorded - plain) / (EVERY * plain),
    }


def _processor_seconds(steps: Mapping[str, Callable[[], None]], rounds: int) -> list[list[float]]:
    """Of this process, one step of each in turn, after one untimed round: on one thread, other work is not counted."""
    seconds: list[list[float]] = [[] for _ in steps]
    for number in range(rounds + 1):
        for times, step in zip(seconds, steps.values(), strict=True):
            start = time.process_time()
            step()
            times += [time.process_time() - start] if number else []
    return seconds


def _parse(arguments: Sequence[str] | None) -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--rounds", type=int, default=9, help="default: %(default)s")
    parser.add_argument("--short", action="store_true", help="a small model")
    parser.add_argument("--json", metavar="FILE", help="also write the numbers")
    return parser.parse_args(arguments)


if __name__ == "__main__":
    sys.exit(main())
