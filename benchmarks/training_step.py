"""`python -m benchmarks.training_step`: a whole training step of a small GPT, plain against mHC in every way to get it.

Forward, backward and AdamW, one core, one step of each candidate in turn. Also how long `torch.compile` takes with cold
caches (each model in a process of its own), and the bytes kept for the backward, parameters that it reads included; the
last column leaves those out. `x` is relative to vanilla. DeepSeek-V4 is the layer of transformers.
"""

from __future__ import annotations

import argparse
import json
import os
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path

import torch
from rich.console import Console
from rich.table import Table
from torch import nn

from benchmarks.gpts import Size, batch, gpts, loss_of, vanilla
from benchmarks.timing import Saved, Timed, interleaved, keep_freed_memory, saved_bytes

BOUNDS = {"step": 1.10, "compile": 2.0, "saved": 1.5}  # ours compiled over vanilla compiled


@dataclass(frozen=True)
class Row:
    """One candidate; `compile` is None for eager ones."""

    name: str
    step: Timed
    compile: float | None
    saved: Saved


def compile_seconds(name: str, n: int) -> float:
    """Seconds of the first forward and backward under `torch.compile`, in a fresh process with empty caches."""
    with tempfile.TemporaryDirectory() as caches:
        environment = {**os.environ, "TORCHINDUCTOR_CACHE_DIR": caches, "TRITON_CACHE_DIR": caches}
        command = [sys.executable, "-m", "benchmarks.training_step", "--compile-only", name, "--n", str(n)]
        done = subprocess.run(command, env=environment, capture_output=True, text=True, check=True)
    return float(done.stdout.splitlines()[-1])


def compile_once(name: str, n: int) -> float:
    """What `compile_seconds` runs in its process."""
    torch.set_num_threads(1)
    size = Size()
    characters, following = batch(size)
    model = gpts(vanilla(size), n, characters)[name]
    loss_of(model, characters, following).backward()  # everything eager mode needs is there before the clock starts
    start = time.perf_counter()
    loss_of(torch.compile(model, dynamic=False), characters, following).backward()
    return time.perf_counter() - start


def step(model: nn.Module, data: tuple[torch.Tensor, torch.Tensor]) -> Callable[[], None]:
    """One training step."""
    optimizer = torch.optim.AdamW(model.parameters(), lr=1e-4, fused=True)

    def run() -> None:
        optimizer.zero_grad()
        loss_of(model, *data).backward()
        optimizer.step()

    return run


def measure(n: int, rounds: int, compile_time: bool) -> list[Row]:
    """All candidates, eager and compiled."""
    size = Size()
    data = batch(size)
    models = gpts(vanilla(size), n, data[0])
    candidates = {**models, **{f"{name}, compiled": torch.compile(m, dynamic=False) for name, m in models.items()}}
    timed = interleaved({name: step(model, data) for name, model in candidates.items()}, rounds)
    rows = []
    for name, model in candidates.items():
        plain = name.removesuffix(", compiled")
        seconds = compile_seconds(plain, n) if compile_time and plain != name else None
        rows.append(Row(name, timed[name], seconds, saved_bytes(model, lambda m=model: loss_of(m, *data))))  # type: ignore[misc]
    return rows


def main(arguments: Sequence[str] | None = None) -> int:
    """Measure, print and judge; exit code 1 if a bound is missed."""
    o = _parse(arguments)
    if o.compile_only:
        print(compile_once(o.compile_only, o.n))
        return 0
    keep_freed_memory()
    torch.set_num_threads(1)
    rows = measure(o.n, o.rounds, not o.no_compile_time)
    console = Console()
    console.print(f"GPT {asdict(Size())}, {2 * Size().layers} sites, n = {o.n}, fp32, one thread, {o.rounds} rounds")
    console.print(_table(rows))
    if o.json:
        numbers = {"torch": torch.__version__, "n": o.n, "rows": [asdict(row) for row in rows]}
        Path(o.json).write_text(json.dumps(numbers, indent=1) + "\n")
    return _judge(rows, console)


def _table(rows: Sequence[Row]) -> Table:
    by_name = {row.name: row for row in rows}
    made = Table("", box=None, pad_edge=False)
    for name in ("step ms", "fastest", "x", "compile s", "x", "saved MB", "x", "activ."):
        made.add_column(name, justify="right", no_wrap=True)
    for row in rows:
        base = by_name["vanilla, compiled" if row.compile is not None or "compiled" in row.name else "vanilla"]
        seconds = ["", ""]
        if row.compile is not None and base.compile is not None:
            seconds = [f"{row.compile:.1f}", f"{row.compile / base.compile:.2f}"]
        made.add_row(
            row.name, f"{row.step.median * 1e3:.0f}", f"{row.step.fastest * 1e3:.0f}",
            f"{row.step.median / base.step.median:.3f}", *seconds,
            f"{row.saved.total / 1e6:.1f}", f"{row.saved.total / base.saved.total:.2f}",
            f"{row.saved.activations / base.saved.activations:.2f}",
        )  # fmt: skip
    return made


def _judge(rows: Sequence[Row], console: Console) -> int:
    by_name = {row.name: row for row in rows}
    ours, base = by_name["ours, compiled"], by_name["vanilla, compiled"]
    ratios = {"step": ours.step.median / base.step.median, "saved": ours.saved.total / base.saved.total}
    if ours.compile is not None and base.compile is not None:
        ratios["compile"] = ours.compile / base.compile
    missed = [name for name, ratio in ratios.items() if ratio > BOUNDS[name]]
    shown = ", ".join(f"{name} {ratios[name]:.2f} (at most {BOUNDS[name]:.2f})" for name in ratios)
    console.print(f"ours over vanilla, compiled: {shown}: {'MISSED ' + ', '.join(missed) if missed else 'met'}")
    return 1 if missed else 0


def _parse(arguments: Sequence[str] | None) -> argparse.Namespace:
    parser = argparse.ArgumentParser(prog="python -m benchmarks.training_step", description=__doc__)
    parser.add_argument("--n", type=int, default=4)
    parser.add_argument("--rounds", type=int, default=15)
    parser.add_argument("--no-compile-time", action="store_true", help="do not measure cold compile times (minutes)")
    parser.add_argument("--compile-only", metavar="NAME", help=argparse.SUPPRESS)
    parser.add_argument("--json", metavar="FILE", help="write the numbers there")
    return parser.parse_args(arguments)


if __name__ == "__main__":
    sys.exit(main())
