"""What a call through `mhc_compile.backend` costs besides computing: guards, and finding the new parameters.

    python -m benchmarks.backend_overhead --json build/bench/backend_overhead.json

Time per call after warm-up, of a 12-layer GPT. `nothing` is an inner backend whose code returns a finished result, so
that all that is timed is Dynamo's guards and this package's wrapper; the others compute. With those the comparison is
with the same computation, the inner backend on a transformed model.
"""

from __future__ import annotations

import argparse
import copy
import json
import statistics
import sys
import time
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import torch
from torch import fx

import mhc_compile
from examples.train_char_gpt import CharGPT

BOUND = 1.02
ROUNDS = 15


def main(arguments: Sequence[str] | None = None) -> int:
    """Print a row per inner backend; exit code 1 if a bound is missed."""
    options = _parse(arguments)
    torch.manual_seed(0)
    model = CharGPT(context=64, width=options.width, layers=options.layers, heads=4).eval()
    x = torch.randint(128, (options.batch, 64))
    rows = []
    for inner in options.inner:
        chosen = nothing if inner == "nothing" else inner
        rows.append({"inner": inner, **compare(model, x, chosen, options.calls if inner == "nothing" else 10)})
        row = rows[-1]
        print(f"{inner:>10}  alone {row['alone']:9.1f} us  backend {row['backend']:9.1f} us  ratio {row['ratio']:.3f}")
    if options.json:
        Path(options.json).write_text(json.dumps(rows, indent=1) + "\n")
    return 1 if any(row["ratio"] > BOUND for row in rows) else 0


def compare(model: CharGPT, x: torch.Tensor, inner: Any, calls: int) -> dict[str, float]:
    """Microseconds per call with the inner backend alone and through ours, in alternating rounds; medians."""
    plain = copy.deepcopy(model) if inner is nothing else mhc_compile.transform(copy.deepcopy(model), example_inputs=x)
    torch.compiler.reset()
    contestants = {
        "alone": torch.compile(plain, backend=inner),
        "backend": torch.compile(copy.deepcopy(model), backend=mhc_compile.backend(inner=inner)),
    }
    times: dict[str, list[float]] = {name: [] for name in contestants}
    with torch.no_grad():
        for compiled in contestants.values():
            for _ in range(3):
                compiled(x)
        for i in range(ROUNDS):
            for name in sorted(contestants, reverse=bool(i % 2)):
                times[name].append(time_calls(lambda name=name: contestants[name](x), calls))
    result = {name: statistics.median(values) for name, values in times.items()}
    pairs = zip(times["backend"], times["alone"], strict=True)
    return {**result, "ratio": statistics.median(b / a for b, a in pairs)}


def time_calls(call: Callable[[], Any], calls: int) -> float:
    """Microseconds per call."""
    start = time.perf_counter()
    for _ in range(calls):
        call()
    return (time.perf_counter() - start) / calls * 1e6


def nothing(gm: fx.GraphModule, example_inputs: Sequence[Any]) -> Callable[..., Any]:
    """An inner backend whose code computes nothing: every call gets the result of the first."""
    done: list[Any] = []

    def call(*inputs: Any) -> Any:
        if not done:
            done.append(gm(*inputs))
        return done[0]

    return call


def _parse(arguments: Sequence[str] | None) -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    for name, default in (("layers", 12), ("width", 64), ("batch", 4), ("calls", 300)):
        parser.add_argument(f"--{name}", type=int, default=default, help="default: %(default)s")
    parser.add_argument("--inner", nargs="+", default=["nothing", "eager", "inductor"], help="inner backends")
    parser.add_argument("--json", metavar="FILE", help="write the rows there")
    return parser.parse_args(arguments)


if __name__ == "__main__":
    sys.exit(main())
