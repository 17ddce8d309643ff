"""`python -m benchmarks.mixing`: seconds of the mixing alone, forward and backward, ours against what exists.

Interior sites whose branch outputs are given. All candidates run in one process, in turn. The limit is the time that
the bytes of the budget (see `budget`) take at the copy bandwidth measured in the same run. On a GPU:

    python -m benchmarks.mixing --device cuda --dtype bfloat16 --channels 2048 --tokens 16384 --sites 4

With `--connections` our other connections are compared with `mhc`, eagerly, and held to `MOST_OF_MHC`:

    python -m benchmarks.mixing --threads 1 --connections mhc-single-pass identity mhc-lite kronecker circulant
"""

from __future__ import annotations

import argparse
import json
import statistics
import sys
import time
from collections.abc import Callable, Sequence
from dataclasses import asdict
from pathlib import Path

import torch
from rich.console import Console
from rich.table import Table
from torch import Tensor, nn
from torch.utils._pytree import tree_flatten, tree_map

from benchmarks.contestants import Mixing, OurMixing, sites
from benchmarks.timing import Timed, copy_bandwidth, describe, interleaved, keep_freed_memory, without_failing

MOST_OF_LIMIT = 3.0
LEAST_SPEEDUP = 3.0
MOST_OF_MHC = {"mhc-single-pass": 0.85, "hc": 1.3}
MOST_OF_MHC_ELSE = 1.05
CALLS_ON_GPU = 10  # between two waits for it


def budget(n: int) -> int:
    """Elements per token and channel that one interior site must move: forward 2n + 2, backward 3n + 3."""
    return (2 * n + 2) + (3 * n + 3)


def candidates(
    n: int, channels: int, depth: int, device: str, compiled: bool
) -> dict[str, tuple[nn.Module, nn.Module]]:
    """Name -> what is called, and the module behind it; eager and compiled."""
    made: dict[str, nn.Module] = {"ours": OurMixing(n, channels, depth)}
    made |= {name: Mixing(site, n, channels, depth) for name, site in sites(device).items()}
    eager = {name: (module.to(device), module) for name, module in made.items()}
    if not compiled:
        return eager
    return eager | {f"{name}, compiled": (torch.compile(m, dynamic=False), m) for name, m in made.items()}


def connections(names: Sequence[str], n: int, channels: int, depth: int, device: str) -> dict[str, nn.Module]:
    """Name -> our sites with this connection, `mhc` first."""
    return {name: OurMixing(n, channels, depth, name).to(device) for name in dict.fromkeys(("mhc", *names))}


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
    where = {"device": o.device, "dtype": getattr(torch, o.dtype)}
    X = torch.randn(o.n, 1, o.tokens, o.channels, **where)
    branches = [torch.randn(1, o.tokens, o.channels, **where).requires_grad_() for _ in range(o.sites)]
    if o.connections:
        both = {name: (m, m) for name, m in connections(o.connections, o.n, o.channels, o.sites, o.device).items()}
    else:
        both = candidates(o.n, o.channels, o.sites, o.device, not o.eager)
    runs = {name: step(module, plain, X, branches) for name, (module, plain) in both.items()}
    bandwidth = copy_bandwidth(o.device)
    clock = time.process_time if o.processor_time else time.perf_counter
    timed = interleaved(without_failing(runs), o.rounds, 1 if o.device == "cpu" else CALLS_ON_GPU, clock)
    limit = o.sites * budget(o.n) * X[0].nbytes / bandwidth
    console = Console()
    console.print(
        f"{o.sites} sites, n = {o.n}, C = {o.channels}, {o.tokens:,} tokens, {o.dtype}, {describe(o.device)}; "
        f"copy bandwidth {bandwidth / 1e9:.1f} GB/s, limit {limit * 1e3:.2f} ms"
    )
    console.print(_table(timed, limit))
    if o.json:
        numbers = {"options": vars(o), "torch": torch.__version__, "bandwidth": bandwidth, "limit": limit}
        numbers["seconds"] = {name: asdict(t) for name, t in timed.items()}
        Path(o.json).write_text(json.dumps(numbers, indent=1) + "\n")
    return _judge_connections(timed, console) if o.connections else _judge(timed, limit, console)


def _table(timed: dict[str, Timed], limit: float) -> Table:
    best = next(timed[name].median for name in ("ours, compiled", "ours", "mhc") if name in timed)
    made = Table("", box=None, pad_edge=False)
    for name in ("forward + backward ms", "fastest", "slowest", "x limit", "x ours"):
        made.add_column(name, justify="right", no_wrap=True)
    for name, t in timed.items():
        milliseconds = (f"{s * 1e3:.2f}" for s in (t.median, t.fastest, t.slowest))
        made.add_row(name, *milliseconds, f"{t.median / limit:.2f}", f"{t.median / best:.2f}")
    return made


def _judge_connections(timed: dict[str, Timed], console: Console) -> int:
    """Rounds are compared one by one, for the machine changes between them; of the ratios the median counts."""
    missed = []
    for name, t in timed.items():
        ratio = statistics.median(a / b for a, b in zip(t.seconds, timed["mhc"].seconds, strict=True))
        most = MOST_OF_MHC.get(name, MOST_OF_MHC_ELSE)
        missed += [name] if ratio > most else []
        console.print(f"{name}: {ratio:.3f} x mhc (at most {most}){' MISSED' if ratio > most else ''}")
    return 1 if missed else 0


def _judge(timed: dict[str, Timed], limit: float, console: Console) -> int:
    if "ours, compiled" not in timed:
        return 0
    ours = timed["ours, compiled"].median
    others = [t.median for name, t in timed.items() if name.endswith(", compiled") and not name.startswith("ours")]
    if not others:
        console.print("nothing is left to compare with")
        return 1
    slowdown, speedup = ours / limit, min(others) / ours
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
    parser.add_argument("--device", default="cpu", help="default: %(default)s")
    parser.add_argument("--dtype", default="float32", help="of streams and branches; default: %(default)s")
    parser.add_argument("--threads", type=int, default=torch.get_num_threads())
    parser.add_argument("--rounds", type=int, default=7)
    parser.add_argument("--connections", nargs="+", default=[], metavar="NAME", help="compare these of ours with mhc")
    parser.add_argument(
        "--processor-time", action="store_true", help="of this process, where others are at work, too; with one thread"
    )
    parser.add_argument("--eager", action="store_true", help="do not compile anything")
    parser.add_argument("--json", metavar="FILE", help="write the numbers there")
    return parser.parse_args(arguments)


if __name__ == "__main__":
    sys.exit(main())
