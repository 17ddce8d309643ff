"""What a call through `mhc_compile.backend` costs besides computing: guards, and finding the new parameters.

    python -m benchmarks.backend_overhead --json build/bench/backend_overhead.json

Time per call after warm-up, of a 12-layer GPT, beside the inner backend on the transformed model: the same computation
with the same parameters. `nothing` is an inner backend whose code returns a finished result, so that all that is timed
is Dynamo's guards and this package's wrapper. For it alone there is also `bare`: the original model, without the new
parameters that a call has to find.
"""

from __future__ import annotations

import argparse
import copy
import json
import statistics
import sys
import time
from collections.abc import Callable, Mapping, Sequence
from functools import partial
from pathlib import Path
from typing import Any

import torch
from torch import fx

import mhc_compile
from examples.train_char_gpt import CharGPT
from mhc_compile.dynamo.inner import Inner

BOUND = 1.02
ROUNDS = 9
COPIES = 5
CALLS_OF_OTHERS = 10  # of inner backends that compute


def main(arguments: Sequence[str] | None = None) -> int:
    """Print a row per inner backend; exit code 1 if a bound is missed."""
    options = _parse(arguments)
    torch.manual_seed(0)
    model = CharGPT(context=64, width=options.width, layers=options.layers, heads=4).eval()
    x = torch.randint(128, (options.batch, 64))
    rows = []
    for inner in options.inner:
        times = compare(model, x, inner, options.calls)
        rows.append({"inner": inner, **times, "ratio": times["backend"] / times["alone"]})
        shown = "  ".join(f"{name} {micros:9.1f} us" for name, micros in times.items())
        print(f"{inner:>10}  {shown}  ratio {rows[-1]['ratio']:.3f}")
    if options.json:
        Path(options.json).write_text(json.dumps(rows, indent=1) + "\n")
    return 1 if any(row["ratio"] > BOUND for row in rows) else 0


def compare(model: CharGPT, x: torch.Tensor, inner: str, calls: int) -> dict[str, float]:
    """Microseconds per call with the inner backend alone and through ours; medians.

    Where modules lie in memory changes the time of their guards, so there are several copies, one after another.
    """
    copies, calls = (COPIES, calls) if inner == "nothing" else (1, CALLS_OF_OTHERS)
    times: dict[str, list[float]] = {name: [] for name in contestants_of(inner)}
    for _ in range(copies):
        torch.compiler.reset()
        contestants = {name: make(model, x, inner, name) for name in times}
        for name, values in time_in_turn(contestants, x, calls).items():
            times[name] += values
    return {name: statistics.median(values) for name, values in times.items()}


@torch.no_grad()
def time_in_turn(contestants: Mapping[str, Callable[..., Any]], x: torch.Tensor, calls: int) -> dict[str, list[float]]:
    """Microseconds per call after warm-up, one value per round."""
    times: dict[str, list[float]] = {name: [] for name in contestants}
    for compiled in contestants.values():
        for _ in range(3):
            compiled(x)
    for i in range(ROUNDS):
        for name in sorted(contestants, reverse=bool(i % 2)):
            times[name].append(time_calls(partial(contestants[name], x), calls))
    return times


def contestants_of(inner: str) -> tuple[str, ...]:
    """What is compared with what."""
    return ("bare", "alone", "backend") if inner == "nothing" else ("alone", "backend")


def make(model: CharGPT, x: torch.Tensor, inner: str, name: str) -> Callable[..., Any]:
    """One contestant, over a copy of the model."""
    chosen: Any = nothing() if inner == "nothing" else inner
    own = copy.deepcopy(model)
    if name == "backend":
        return torch.compile(own, backend=mhc_compile.backend(inner=chosen))
    return torch.compile(own if name == "bare" else mhc_compile.transform(own, example_inputs=x), backend=chosen)


def time_calls(call: Callable[[], Any], calls: int) -> float:
    """Microseconds per call."""
    start = time.perf_counter()
    for _ in range(calls):
        call()
    return (time.perf_counter() - start) / calls * 1e6


def nothing() -> Inner:
    """An inner backend whose code computes nothing: every call gets the result of the first."""

    def compile_graph(gm: fx.GraphModule, example_inputs: Sequence[Any]) -> Callable[..., Any]:
        done: list[Any] = []

        def call(*inputs: Any) -> Any:
            if not done:
                done.append(gm(*inputs))
            return done[0]

        return call

    return compile_graph


def _parse(arguments: Sequence[str] | None) -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    for name, default in (("layers", 12), ("width", 64), ("batch", 4), ("calls", 300)):
        parser.add_argument(f"--{name}", type=int, default=default, help="default: %(default)s")
    parser.add_argument("--inner", nargs="+", default=["nothing", "eager", "inductor"], help="inner backends")
    parser.add_argument("--json", metavar="FILE", help="write the rows there")
    return parser.parse_args(arguments)


if __name__ == "__main__":
    sys.exit(main())
