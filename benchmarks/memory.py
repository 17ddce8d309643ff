"""`python -m benchmarks.memory`: peak memory of a training step of a GPT with 24 sites, and what recomputation costs.

C = 512, 2,048 tokens, fp32, one thread. The peak is what the allocator reports in one step of forward, backward and
AdamW, with parameters and optimizer; `saved` is what the forward keeps for the backward, parameters left out. Steps are
timed one of each candidate in turn. DeepSeek-V4 is the layer of transformers, written into the model by hand.

With `--device cuda --dtype bfloat16`: C = 2048, 16,384 tokens, 12 sites, also lucidrains and Liger, three steps of
each in turn. The bounds are those of a CPU.
"""

from __future__ import annotations

import argparse
import json
import sys
from collections.abc import Sequence
from dataclasses import asdict, dataclass
from pathlib import Path

import torch
from rich.console import Console
from rich.table import Table
from torch import Tensor, nn

from benchmarks.allocations import peak_bytes
from benchmarks.contestants import sites
from benchmarks.gpts import Size, batch, by_hand, loss_of, ours, vanilla
from benchmarks.timing import Saved, Timed, describe, interleaved, keep_freed_memory, saved_bytes, without_failing
from examples.train_char_gpt import CharGPT

SIZE = Size(width=512, layers=12, heads=8, batch=8, context=256)
CUDA_SIZE = Size(width=2048, layers=6, heads=16, batch=8, context=2048)
CALLS_ON_GPU = 3  # between two waits for it
OURS, RECOMPUTED = "ours", 'ours, recompute="auto"'
MOST_MEMORY = {OURS: 1.5, RECOMPUTED: 1.2}  # peak over that of vanilla
MOST_TIME = 1.06  # step with recomputation over step without


@dataclass(frozen=True)
class Row:
    """One candidate: bytes at the peak of a step, bytes kept for the backward, seconds of a step."""

    name: str
    peak: int
    saved: Saved
    step: Timed


def candidates(plain: CharGPT, n: int, characters: Tensor, compiled: bool) -> dict[str, tuple[nn.Module, nn.Module]]:
    """Name -> what is called, and the module behind it. On a CPU, DeepSeek-V4 would take minutes to compile."""
    models: dict[str, nn.Module] = {"vanilla": plain, OURS: ours(plain, n, characters)}
    models[RECOMPUTED] = ours(plain, n, characters, recompute="auto")
    if characters.is_cuda:
        models |= {site: by_hand(plain, n, site) for site in sites("cuda")}
    elif not compiled:
        models["DeepSeek-V4"] = by_hand(plain, n, "DeepSeek-V4")
    if compiled:
        return {name: (torch.compile(model, dynamic=False), model) for name, model in models.items()}  # type: ignore[misc]
    return {name: (model, model) for name, model in models.items()}


class Training:
    """Steps of one candidate."""

    def __init__(self, called: nn.Module, model: nn.Module, data: tuple[Tensor, Tensor]) -> None:
        self.called, self.model, self.data = called, model, data
        self.optimizer = torch.optim.AdamW(model.parameters(), lr=1e-4, fused=True)

    def step(self) -> None:
        """One training step; gradients stay."""
        loss_of(self.called, *self.data).backward()
        self.optimizer.step()

    def run(self) -> None:
        """One training step that leaves no gradients behind."""
        self.step()
        self.optimizer.zero_grad()

    def peak(self) -> int:
        """Bytes at the peak of a step, of parameters, optimizer, gradients and activations."""
        self.run()
        states = (value for state in self.optimizer.state.values() for value in state.values())
        held = sum(t.nbytes for t in (*self.model.parameters(), *self.model.buffers(), *states))
        peak = held + peak_bytes(self.step, self.data[0].device)
        self.optimizer.zero_grad()
        return peak

    def saved(self) -> Saved:
        """What the forward keeps."""
        return saved_bytes(self.model, lambda: loss_of(self.called, *self.data))


def measure(size: Size, o: argparse.Namespace) -> list[Row]:
    """All candidates: memory one by one, time in turn."""
    data = batch(size, o.device)
    found = candidates(vanilla(size, o.device, getattr(torch, o.dtype)), o.n, data[0], o.compiled)
    trainings = {name: Training(called, model, data) for name, (called, model) in found.items()}
    working = without_failing({name: training.run for name, training in trainings.items()})
    trainings = {name: trainings[name] for name in working}
    peaks = {name: training.peak() for name, training in trainings.items()}
    saved = {name: training.saved() for name, training in trainings.items()}
    timed = interleaved(working, o.rounds, 1 if o.device == "cpu" else CALLS_ON_GPU)
    return [Row(name, peaks[name], saved[name], timed[name]) for name in trainings]


def main(arguments: Sequence[str] | None = None) -> int:
    """Measure, print and judge; exit code 1 if a bound is missed."""
    o = _parse(arguments)
    keep_freed_memory()
    torch.set_num_threads(1)
    size = SIZE if o.device == "cpu" else CUDA_SIZE
    rows = measure(size, o)
    console = Console()
    how = f"{o.dtype}, {'compiled' if o.compiled else 'eager'}, {describe(o.device)}, {o.rounds} rounds"
    console.print(f"GPT {asdict(size)}, {2 * size.layers} sites, n = {o.n}, {how}")
    console.print(_table(rows))
    if o.json:
        numbers = {"torch": torch.__version__, "options": vars(o), "rows": [asdict(row) for row in rows]}
        Path(o.json).write_text(json.dumps(numbers, indent=1) + "\n")
    return _judge(rows, console)


def _table(rows: Sequence[Row]) -> Table:
    base = rows[0]
    made = Table("", box=None, pad_edge=False)
    for name in ("peak MB", "x", "saved MB", "x", "step s", "fastest", "x"):
        made.add_column(name, justify="right", no_wrap=True)
    for row in rows:
        made.add_row(
            row.name, f"{row.peak / 1e6:.0f}", f"{row.peak / base.peak:.2f}", f"{row.saved.activations / 1e6:.0f}",
            f"{row.saved.activations / base.saved.activations:.2f}", f"{row.step.median:.4g}",
            f"{row.step.fastest:.4g}", f"{row.step.median / base.step.median:.3f}",
        )  # fmt: skip
    return made


def _judge(rows: Sequence[Row], console: Console) -> int:
    by_name = {row.name: row for row in rows}
    peaks = {name: by_name[name].peak / by_name["vanilla"].peak for name in MOST_MEMORY}
    slowdown = by_name[RECOMPUTED].step.median / by_name[OURS].step.median
    met = slowdown <= MOST_TIME and all(peaks[name] <= most for name, most in MOST_MEMORY.items())
    shown = ", ".join(f"{name} {peaks[name]:.2f} x (at most {most})" for name, most in MOST_MEMORY.items())
    console.print(
        f"peak over vanilla: {shown}; recomputation makes a step {slowdown:.3f} x as long (at most {MOST_TIME}): "
        f"{'met' if met else 'MISSED'}"
    )
    return 0 if met else 1


def _parse(arguments: Sequence[str] | None) -> argparse.Namespace:
    parser = argparse.ArgumentParser(prog="python -m benchmarks.memory", description=__doc__)
    parser.add_argument("--n", type=int, default=4)
    parser.add_argument("--rounds", type=int, default=11)
    parser.add_argument("--device", default="cpu", help="default: %(default)s")
    parser.add_argument("--dtype", default="float32", help="of the model; default: %(default)s")
    parser.add_argument("--compiled", action="store_true", help="through torch.compile; on a CPU without DeepSeek-V4")
    parser.add_argument("--json", metavar="FILE", help="write the numbers there")
    return parser.parse_args(arguments)


if __name__ == "__main__":
    sys.exit(main())
