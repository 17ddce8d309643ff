"""`python -m benchmarks.passes_scaling`: seconds that planning and rewriting take, against the size of the graph.

Bound: at most 1 s for 10,000 nodes, and linear (slope of log time over log nodes near 1). Capture is not part of it.
The passes run on one thread, so processor time is counted, which other work on the machine does not add to.
"""

from __future__ import annotations

import argparse
import json
import math
import sys
import time
from collections.abc import Sequence
from dataclasses import asdict, dataclass
from pathlib import Path

import torch
from rich.console import Console
from rich.table import Table

from benchmarks.synthetic_graphs import GRAPHS
from mhc_compile.config import Config
from mhc_compile.passes.order import make_plan, rewrite_graph

SIZES = (1_000, 3_000, 10_000, 30_000, 100_000)
MOST_SECONDS = 1.0  # for 10,000 nodes
STEEPEST = 1.15  # a quadratic pass has 2; timer noise and caches account for the rest above 1


@dataclass(frozen=True)
class Timing:
    """One graph, planned and rewritten; seconds are the best of the repeats."""

    graph: str
    nodes: int
    sites: int
    plan: float
    rewrite: float

    @property
    def per_10k(self) -> float:
        """Seconds for 10,000 nodes."""
        return (self.plan + self.rewrite) / self.nodes * 10_000


def measure(name: str, size: int, repeats: int) -> Timing:
    """Build a graph of about `size` nodes, time both passes on it, `repeats` times."""
    runs = [_measure_once(name, size) for _ in range(repeats)]
    return min(runs, key=lambda t: t.plan + t.rewrite)


def _measure_once(name: str, size: int) -> Timing:
    gm, config = GRAPHS[name](size), Config(n=4)
    nodes = len(gm.graph.nodes)
    start = time.process_time()
    plan = make_plan(gm, config)
    planned = time.process_time()
    rewrite_graph(gm, plan, config)
    return Timing(name, nodes, len(plan.sites), planned - start, time.process_time() - planned)


def slope(timings: Sequence[Timing]) -> float:
    """Least-squares slope of log seconds over log nodes: 1 is linear, 2 quadratic."""
    x = [math.log(t.nodes) for t in timings]
    y = [math.log(t.plan + t.rewrite) for t in timings]
    mean_x, mean_y = sum(x) / len(x), sum(y) / len(y)
    return sum((a - mean_x) * (b - mean_y) for a, b in zip(x, y, strict=True)) / sum((a - mean_x) ** 2 for a in x)


def table(timings: Sequence[Timing]) -> Table:
    """One row per graph."""
    made = Table("Graph", box=None)
    for name in ("Nodes", "Sites", "Plan s", "Rewrite s", "s per 10k nodes"):
        made.add_column(name, justify="right")
    for t in timings:
        seconds = (f"{value:.3f}" for value in (t.plan, t.rewrite, t.per_10k))
        made.add_row(t.graph, f"{t.nodes:,}", f"{t.sites:,}", *seconds)
    return made


def main(arguments: Sequence[str] | None = None) -> int:
    """Measure, print and judge.

    Returns:
        Exit code: 1 if a bound is missed.
    """
    options = _parse(arguments)
    console = Console()
    measure("deep chain", 1_000, 1)  # first use of every code path
    timings = [measure(name, size, options.repeats) for name in GRAPHS for size in options.sizes]
    slopes = {name: slope([t for t in timings if t.graph == name]) for name in GRAPHS}
    console.print(table(timings))
    for name, value in slopes.items():
        console.print(f"{name}: slope {value:.2f}")
    if options.json:
        rows = [{**asdict(t), "per_10k": t.per_10k} for t in timings]
        numbers = {"torch": torch.__version__, "slopes": slopes, "rows": rows}
        Path(options.json).write_text(json.dumps(numbers, indent=1) + "\n")
    slow = [t for t in timings if t.per_10k > MOST_SECONDS]
    steep = [name for name, value in slopes.items() if value > STEEPEST]
    met = not slow and not steep
    bounds = f"at most {MOST_SECONDS} s per 10,000 nodes, slope at most {STEEPEST}"
    console.print(f"bounds ({bounds}): {'met' if met else 'MISSED'}")
    return 0 if met else 1


def _parse(arguments: Sequence[str] | None) -> argparse.Namespace:
    parser = argparse.ArgumentParser(prog="python -m benchmarks.passes_scaling", description=__doc__)
    parser.add_argument("--sizes", type=int, nargs="+", default=SIZES, metavar="NODES", help="default: %(default)s")
    parser.add_argument("--repeats", type=int, default=1, help="the best of so many runs counts (default: %(default)s)")
    parser.add_argument("--json", metavar="FILE", help="write the numbers there")
    options = parser.parse_args(arguments)
    if len(set(options.sizes)) < 2:
        parser.error("--sizes needs two sizes or more, for the slope")
    return options


if __name__ == "__main__":
    sys.exit(main())
