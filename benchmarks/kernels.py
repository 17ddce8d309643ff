"""`python -m benchmarks.kernels`: seconds of each fused step on a GPU, ours and Liger's, and how near memory allows.

A step runs alone, its inputs out of the L2 cache, with the tiles that were measured to be the fastest here. The share
is of the copy bandwidth measured in the same run, with the bytes that the step must at least move: streams and branches
once each way. Liger is its write, coefficients and read on the same tensors, which is what `boundary` fuses.
"""

from __future__ import annotations

import argparse
import json
import sys
from collections.abc import Callable, Iterator, Sequence
from dataclasses import asdict, dataclass, replace
from functools import partial
from pathlib import Path

import torch
from rich.console import Console
from rich.table import Table
from triton.testing import do_bench

from benchmarks.timing import copy_bandwidth, describe
from benchmarks.traffic import liger
from mhc_compile.kernels.triton import launch as triton_launch
from tests.kernels.step_calls import as_tuple
from tests.kernels.step_inputs import StepInputs, step_inputs

STEPS = {"gate": (1, 1), "write": (2, 1), "boundary": (2, 2), "leave": (1, 2)}
BACKWARD = {"gate": (2, 1), "write": (3, 2), "boundary": (3, 3), "leave": (2, 3)}
"""Step -> how often the streams (n C a token) and the branch (C a token) are read or written at least."""


@dataclass(frozen=True)
class Row:
    """One step: milliseconds, and bytes per second of those it must move over those of a copy."""

    name: str
    milliseconds: float
    share: float


def median(call: Callable[[], object]) -> float:
    """Milliseconds."""
    return float(do_bench(call, warmup=25, rep=100, return_mode="median"))


def on_gpu(data: StepInputs) -> StepInputs:
    """The same tensors there."""
    params = tuple(p.cuda() for p in data.params)
    return replace(data, X=data.X.cuda(), y=data.y.cuda(), mix=data.mix.cuda(), params=params)  # type: ignore[arg-type]


def ours(data: StepInputs, n: int) -> Iterator[tuple[str, Callable[[], object]]]:
    """Every step, forward and backward, with the tensors it takes."""
    streams = (data.X, data.y, data.mix)
    inputs = {"gate": (data.X, *data.params), "write": streams, "boundary": (*streams, *data.params), "leave": streams}
    for name, tensors in inputs.items():
        constants = (n, data.axis, 1 / n) if name == "leave" else (n, data.axis)
        outputs = as_tuple(getattr(triton_launch, name)(*tensors, *constants))
        *results, stat = outputs if name in ("gate", "boundary") else (*outputs, None)
        grads = [torch.randn_like(t) for t in results]
        kept = () if stat is None else (stat,)
        yield name, partial(getattr(triton_launch, name), *tensors, *constants)
        yield (
            f"{name}_backward",
            partial(getattr(triton_launch, f"{name}_backward"), *grads, *tensors, *kept, *constants),
        )


def measure(n: int, shape: tuple[int, int], dtype: torch.dtype, bandwidth: float) -> list[Row]:
    """All steps, forward and backward, then Liger's."""
    unit = shape[0] * shape[1] * dtype.itemsize
    least = {name: (n * X + y) * unit for name, (X, y) in STEPS.items()}
    least |= {f"{name}_backward": (n * X + y) * unit for name, (X, y) in BACKWARD.items()}
    data = on_gpu(step_inputs(n, (shape, 1), dtype=dtype))
    calls = dict(ours(data, n))
    calls["boundary, Liger"], calls["boundary_backward, Liger"] = liger(data, n)
    rows = []
    for name, call in calls.items():
        milliseconds = median(call)
        rows.append(Row(name, milliseconds, least[name.removesuffix(", Liger")] / (milliseconds / 1e3) / bandwidth))
    return rows


def main(arguments: Sequence[str] | None = None) -> int:
    """Measure and print."""
    o = _parse(arguments)
    bandwidth = copy_bandwidth("cuda")
    rows = measure(o.n, (o.tokens, o.channels), getattr(torch, o.dtype), bandwidth)
    console = Console()
    console.print(
        f"n = {o.n}, C = {o.channels}, {o.tokens:,} tokens, {o.dtype}, {describe('cuda')}; "
        f"copy bandwidth {bandwidth / 1e9:.0f} GB/s"
    )
    made = Table("", box=None, pad_edge=False)
    for title in ("ms", "share of copy bandwidth"):
        made.add_column(title, justify="right", no_wrap=True)
    for row in rows:
        made.add_row(row.name, f"{row.milliseconds:.3f}", f"{row.share:.2f}")
    console.print(made)
    if o.json:
        numbers = {"options": vars(o), "bandwidth": bandwidth, "rows": [asdict(row) for row in rows]}
        Path(o.json).write_text(json.dumps(numbers, indent=1) + "\n")
    return 0


def _parse(arguments: Sequence[str] | None) -> argparse.Namespace:
    parser = argparse.ArgumentParser(prog="python -m benchmarks.kernels", description=__doc__)
    parser.add_argument("--n", type=int, default=4)
    parser.add_argument("--channels", type=int, default=2048)
    parser.add_argument("--tokens", type=int, default=16384)
    parser.add_argument("--dtype", default="bfloat16")
    parser.add_argument("--json", metavar="FILE", help="write the numbers there")
    return parser.parse_args(arguments)


if __name__ == "__main__":
    sys.exit(main())
