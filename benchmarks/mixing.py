"""`python -m benchmarks.mixing`: seconds of the mixing alone, forward and backward, ours against what exists.

Interior sites whose branch outputs are given. All candidates run in one process, one call of each in turn. The limit
is the time that the bytes of the budget (see `budget`) take at the copy bandwidth measured in the same run.
"""

from __future__ import annotations

import argparse
import json
import sys
from collections.abc import Callable, Sequence
from dataclasses import asdict
from pathlib import Path

import torch
from rich.console import Console
from rich.table import Table
from torch import Tensor, nn
from torch.utils._pytree import tree_flatten, tree_map

from benchmarks.contestants import SITES, Mixing, OurMixing
from benchmarks.timing import Timed, copy_bandwidth, interleaved, keep_freed_memory

MOST_OF_LIMIT = 3.0
LEAST_SPEEDUP = 3.0


def budget(n: int) -> int:
    """Elements per token and channel that one interior site must move: forward 2n + 2, backward 3n + 3."""
    return (2 * n + 2) + (3 * n + 3)


def candidates(n: int, channels: int, sites: int, compiled: bool) -> dict[str, tuple[nn.Module, nn.Module]]:
    """Name -> what is called, and the module behind it; eager and compiled."""
    made: dict[str, nn.Module] = {"ours": OurMixing(n, channels, sites)}
    made |= {name: Mixing(site, n, channels, sites) for name, site in SITES.items()}
    eager = {name: (module, module) for name, module in made.items()}
    if not compiled:
        return eager
    return eager | {f"{name}, compiled": (torch.compile(m, dynamic=False), m) for name, m in made.items()}


def step(module: nn.Module, plain: nn.Module, X: Tensor, branches: Sequence[Tensor]) -> Callable[[], None]:
    """One forward and backward with gradients for streams, coefficients, branches and parameters."""
    with torch.no_grad():
        state = tree_map(lambda t: t.clone().requires_grad_(), plain.start(X))  # type: ignore[operator]
        grads = [torch.randn_like(t) for t in _tensors(plain(state, branches))]
    leaves = [*_tensors(state), *branches, *plain.parameters()]

    def run() -> None:
        torch.autograd.grad(_tensors(module(state, branches)), leaves, grads, allow_unused=True)

    return run


def _tensors(tree: object) -> list[Tensor]:
    return [leaf for leaf in tree_flatten(tree)[0] if isinstance(leaf, Tensor)]


def main(arguments: Sequence[str] | None = None) -> int:
    """Measure, print and judge; exit code 1 if a bound is missed."""
    o = _parse(arguments)
    keep_freed_memory()
    torch.set_num_threads(o.threads)
    torch.manual_seed(0)
    X = torch.randn(o.n, 1, o.tokens, o.channels)
    branches = [torch.randn(1, o.tokens, o.channels).requires_grad_() for _ in range(o.sites)]
    runs = {
        name: step(module, plain, X, branches)
        for name, (module, plain) in candidates(o.n, o.channels, o.sites, not o.eager).items()
    }
    bandwidth = copy_bandwidth()
    timed = interleaved(runs, o.rounds)
    limit = o.sites * budget(o.n) * o.tokens * o.channels * 4 / bandwidth
    console = Console()
    console.print(
        f"{o.sites} sites, n = {o.n}, C = {o.channels}, {o.tokens:,} tokens, fp32, {o.threads} threads; "
        f"copy bandwidth {bandwidth / 1e9:.1f} GB/s, limit {limit * 1e3:.1f} ms"
    )
    console.print(_table(timed, limit))
    if o.json:
        numbers = {"options": vars(o), "torch": torch.__version__, "bandwidth": bandwidth, "limit": limit}
        numbers["seconds"] = {name: asdict(t) for name, t in timed.items()}
        Path(o.json).write_text(json.dumps(numbers, indent=1) + "\n")
    return _judge(timed, limit, console)


def _table(timed: dict[str, Timed], limit: float) -> Table:
    best = timed.get("ours, compiled", timed["ours"]).median
    made = Table("", box=None, pad_edge=False)
    for name in ("forward + backward ms", "fastest", "slowest", "x limit", "x ours"):
        made.add_column(name, justify="right", no_wrap=True)
    for name, t in timed.items():
        milliseconds = (f"{s * 1e3:.1f}" for s in (t.median, t.fastest, t.slowest))
        made.add_row(name, *milliseconds, f"{t.median / limit:.2f}", f"{t.median / best:.2f}")
    return made


def _judge(timed: dict[str, Timed], limit: float, console: Console) -> int:
    if "ours, compiled" not in timed:
        return 0
    ours = timed["ours, compiled"].median
    slowdown, speedup = ours / limit, min(timed[f"{name}, compiled"].median / ours for name in SITES)
    met = slowdown <= MOST_OF_LIMIT and speedup >= LEAST_SPEEDUP
    console.print(
        f"ours, compiled: {slowdown:.2f} x the limit (at most {MOST_OF_LIMIT}), {speedup:.2f} x faster than the next "
        f"compiled (at least {LEAST_SPEEDUP}): {'met' if met else 'MISSED'}"
    )
    return 0 if met else 1


def _parse(arguments: Sequence[str] | None) -> argparse.Namespace:
    parser = argparse.ArgumentParser(prog="python -m benchmarks.mixing", description=__doc__)
    parser.add_argument("--n", type=int, default=4)
    parser.add_argument("--channels", type=int, default=1024)
    parser.add_argument("--tokens", type=int, default=4096)
    parser.add_argument("--sites", type=int, default=2)
    parser.add_argument("--threads", type=int, default=torch.get_num_threads())
    parser.add_argument("--rounds", type=int, default=7)
    parser.add_argument("--eager", action="store_true", help="do not compile anything")
    parser.add_argument("--json", metavar="FILE", help="write the numbers there")
    return parser.parse_args(arguments)


if __name__ == "__main__":
    sys.exit(main())
