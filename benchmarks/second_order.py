"""`python -m benchmarks.second_order`: a training step with forces, over the plain model in the same run.

An energy, forces as its gradient with `create_graph`, a loss on both, its backward: what potentials, physics-informed
networks and gradient penalties do. Nine sites of 64 channels by default, on one core, for 3,000, 300 and 30 tokens;
beside it the first order, a loss on the energy alone. `--connections` names what is measured.
"""

from __future__ import annotations

import argparse
import json
import statistics
import time
from collections.abc import Callable

import torch
from rich.console import Console
from rich.table import Table
from torch import Tensor, nn

import mhc_compile
from benchmarks.timing import describe, interleaved, keep_freed_memory

TOKENS = (3000, 300, 30)
MOST_SECOND, MOST_FIRST = 3.0, {3000: 1.6, 300: 1.8, 30: 2.5}


class Potential(nn.Module):
    """Residual layers over the features of atoms, and their energies."""

    def __init__(self, sites: int, channels: int) -> None:
        super().__init__()
        self.stem = nn.Linear(channels, channels)
        self.norms = nn.ModuleList(nn.LayerNorm(channels) for _ in range(sites))
        self.up = nn.ModuleList(nn.Linear(channels, channels) for _ in range(sites))
        self.down = nn.ModuleList(nn.Linear(channels, channels) for _ in range(sites))
        self.head = nn.Linear(channels, 1)

    def forward(self, x: Tensor) -> Tensor:
        """`[tokens, channels]` to `[tokens, 1]`."""
        x = self.stem(x)
        for norm, up, down in zip(self.norms, self.up, self.down, strict=True):
            x = x + down(nn.functional.silu(up(norm(x))))
        energies: Tensor = self.head(x)
        return energies


def second_order(model: nn.Module, x: Tensor) -> Callable[[], None]:
    """A step with forces."""

    def step() -> None:
        at = x.detach().requires_grad_()
        energy = model(at).sum()
        (force,) = torch.autograd.grad(energy, at, create_graph=True)
        (energy.square() / len(x) + force.square().sum()).backward()

    return step


def first_order(model: nn.Module, x: Tensor) -> Callable[[], None]:
    """A step without."""

    def step() -> None:
        model(x).square().mean().backward()

    return step


def main() -> None:
    """Measure and print."""
    parser = argparse.ArgumentParser(description=(__doc__ or "").split("\n")[0])
    parser.add_argument("--connections", nargs="+", default=["mhc"])
    parser.add_argument("--sites", type=int, default=9)
    parser.add_argument("--channels", type=int, default=64)
    parser.add_argument("--n", type=int, default=4)
    parser.add_argument("--rounds", type=int, default=21)
    parser.add_argument("--json", action="store_true")
    arguments = parser.parse_args()
    torch.set_num_threads(1)
    keep_freed_memory()
    rows = [row for tokens in TOKENS for row in measured(arguments, tokens)]
    if arguments.json:
        print(json.dumps(rows, indent=2))
        return
    table = Table("tokens", "connection", "second order / plain", "first order / plain")
    for row in rows:
        table.add_row(str(row["tokens"]), str(row["connection"]), f"{row['second']:.2f}", f"{row['first']:.2f}")
    console = Console(width=100)
    console.print(describe("cpu"))
    console.print(table)
    console.print(f"bounds: second order {MOST_SECOND}, first order {MOST_FIRST}")


def measured(arguments: argparse.Namespace, tokens: int) -> list[dict[str, float | str]]:
    """One row for each connection: medians over those of the plain model, taken in turn."""
    torch.manual_seed(0)
    x = torch.randn(tokens, arguments.channels)
    plain = Potential(arguments.sites, arguments.channels)
    models: dict[str, nn.Module] = {"plain": plain}
    for name in arguments.connections:
        options = {"n": arguments.n, "connection": name, "modes": ("train",)}
        models[name] = mhc_compile.transform(plain, example_inputs=(x,), **options)
    found: dict[str, dict[str, float]] = {}
    for kind, of in (("second", second_order), ("first", first_order)):
        steps = {name: of(model, x) for name, model in models.items()}
        timed = interleaved(steps, rounds=arguments.rounds, clock=time.process_time)
        found[kind] = {
            name: statistics.median(a / b for a, b in zip(t.seconds, timed["plain"].seconds, strict=True))
            for name, t in timed.items()
        }
    return [
        {"tokens": tokens, "connection": name, "second": found["second"][name], "first": found["first"][name]}
        for name in arguments.connections
    ]


if __name__ == "__main__":
    main()
