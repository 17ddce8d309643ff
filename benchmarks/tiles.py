"""`python -m benchmarks.tiles`: the fastest tiles of each Triton kernel on this GPU, for `kernels/triton/tiles.py`.

All sizes that give a thread a sensible share of a tile are compiled on all cores, then timed one by one.
"""

from __future__ import annotations

import argparse
import multiprocessing
import sys
from collections.abc import Iterator, Sequence
from contextlib import suppress
from dataclasses import dataclass
from functools import partial
from itertools import product
from typing import Any
from unittest import mock

import torch
from rich.console import Console
from rich.table import Table
from torch import Tensor
from triton.runtime.jit import MockTensor
from triton.testing import do_bench

from benchmarks.timing import describe
from mhc_compile.kernels.schedules.schedule import Launch, Spec
from mhc_compile.kernels.triton import schedules as triton_schedules
from mhc_compile.kernels.triton.tiles import Tiles, configurations
from tests.gpu.compiled.resources import schedule, step_specs

STEPS = ("gate", "write", "boundary", "leave")
KERNELS = (
    *((step, 0, step) for step in STEPS),
    *((f"{step}_backward", int(step in ("gate", "boundary")), f"{step}_backward") for step in STEPS),
    ("boundary", 1, "read"),
    ("boundary_backward", 0, "logits"),
    ("boundary_backward", 2, "products"),
)
"""Step, index of a launch, and what `kernels/triton/tiles.py` calls its tiles, if it does not have those of others."""
SHARE = range(2, 17)  # elements of a tile that a thread holds


@dataclass(frozen=True)
class Variant:
    """One kernel of a step with certain tiles."""

    step: str
    index: int
    kernel: str
    tiles: Tiles


def variants(only: str) -> Iterator[Variant]:
    """All that are tried of the kernels whose step has `only` in its name; loops load three steps ahead."""
    for (step, index, kernel), *sizes in product(KERNELS, (16, 32, 64, 128), (16, 32, 64, 128), (1, 2, 4, 8)):
        tiles = Tiles(*sizes)
        if only in step and tiles.tokens * tiles.channels // (32 * tiles.warps) in SHARE:
            yield Variant(step, index, kernel, tiles)


def planned(variant: Variant, o: argparse.Namespace) -> tuple[Launch, dict[str, Spec]]:
    """The launch, and what its tensors are; tiles are taken as they are, whatever n and dtype."""
    specs = step_specs(variant.step, o.n, o.channels, getattr(torch, o.dtype), tokens=o.tokens, axis=o.axis)

    def tiles_of(kernel: str, *others: Any) -> tuple[Tiles, ...]:
        return (variant.tiles,) if kernel == variant.kernel else configurations(kernel, *others)

    with mock.patch.object(triton_schedules, "configurations", tiles_of):
        made = schedule(variant.step, specs, o.n, o.axis)
    return made.launches[variant.index], {**specs, **made.buffers}


def compile_only(o: argparse.Namespace, variant: Variant) -> None:
    """Put the machine code into Triton's cache, in another process; what does not compile is told when it is timed."""
    launch, specs = planned(variant, o)
    tensors = {parameter: MockTensor(specs[name].dtype) for parameter, name in launch.tensors.items()}
    with suppress(Exception):
        launch.kernel.warmup(**tensors, **launch.sizes, **launch.constants, **launch.options, grid=launch.grid)


def milliseconds(variant: Variant, o: argparse.Namespace, tensors: dict[str, Tensor]) -> float:
    """The median; infinite where tiles do not compile, or ask for more shared memory than there is."""
    launch, specs = planned(variant, o)
    for name in set(launch.tensors.values()) - set(tensors):
        tensors[name] = torch.randn(specs[name].shape, device="cuda").to(specs[name].dtype)
    arguments = {parameter: tensors[name] for parameter, name in launch.tensors.items()}
    run = partial(launch.kernel[launch.grid], **arguments, **launch.sizes, **launch.constants, **launch.options)
    try:
        return float(do_bench(run, warmup=5, rep=20, return_mode="median"))
    except Exception as error:  # whatever is wrong with these tiles, the others are still worth timing
        print(f"{variant} is left out: {type(error).__name__}: {str(error).strip()[:200]}")
        return float("inf")


def main(arguments: Sequence[str] | None = None) -> int:
    """Compile, time and print the fastest of each kernel."""
    o = _parse(arguments)
    chosen = list(variants(o.only))
    with multiprocessing.get_context("fork").Pool() as pool:
        pool.map(partial(compile_only, o), chosen, chunksize=1)
    timed: dict[str, list[tuple[float, Tiles]]] = {}
    for kernel, of_kernel in _by_kernel(chosen):
        tensors: dict[str, Tensor] = {}
        timed[kernel] = [(milliseconds(variant, o, tensors), variant.tiles) for variant in of_kernel]
    console = Console(width=150)
    console.print(f"n = {o.n}, C = {o.channels}, {o.tokens:,} tokens, {o.dtype}, {describe('cuda')}; ms, fastest first")
    made = Table("", *["tokens, channels, warps"] * o.show, box=None, pad_edge=False)
    for kernel, found in timed.items():
        fastest = sorted(found, key=lambda pair: pair[0])[: o.show]
        made.add_row(kernel, *(f"{ms:.3f}  {t.tokens}, {t.channels}, {t.warps}" for ms, t in fastest))
    console.print(made)
    return 0


def _by_kernel(chosen: Sequence[Variant]) -> Iterator[tuple[str, list[Variant]]]:
    for kernel in dict.fromkeys(v.kernel for v in chosen):
        yield kernel, [v for v in chosen if v.kernel == kernel]


def _parse(arguments: Sequence[str] | None) -> argparse.Namespace:
    parser = argparse.ArgumentParser(prog="python -m benchmarks.tiles", description=__doc__)
    parser.add_argument("--n", type=int, default=4)
    parser.add_argument("--channels", type=int, default=2048)
    parser.add_argument("--tokens", type=int, default=16384)
    parser.add_argument("--dtype", default="bfloat16")
    parser.add_argument("--axis", type=int, default=1, help="1: channels last, 0: first")
    parser.add_argument("--only", default="", help="only steps with this in their name")
    parser.add_argument("--show", type=int, default=4, help="how many of each kernel; default: %(default)s")
    return parser.parse_args(arguments)


if __name__ == "__main__":
    sys.exit(main())
