"""Table of registers, shared memory and spills of every kernel: `python -m tests.gpu.compiled.resources`."""

from __future__ import annotations

import argparse
from collections.abc import Iterator, Sequence
from dataclasses import astuple, dataclass
from itertools import product
from unittest.mock import patch

import torch

from mhc_compile.kernels.formulas.lookup import manifold_of
from mhc_compile.kernels.formulas.packed import STEPS
from mhc_compile.kernels.formulas.steps import tensors_of
from mhc_compile.kernels.schedules.schedule import Schedule, Spec
from mhc_compile.kernels.triton import schedules
from tests.gpu.compiled.cubin import TARGETS, kernels, resources, tensor_core_instructions, wide_loads

EVERY_STEP = (*STEPS, "restore")


def step_specs(
    name: str,
    n: int,
    C: int,
    dtype: torch.dtype,
    *,
    tokens: int = 4096,
    m: int | None = None,
    axis: int = 1,
    connection: str = "mhc",
) -> dict[str, Spec]:
    """The inputs of a step, with the channels last (`axis=1`) or first (`axis=0`)."""
    m, manifold = m or n, manifold_of(connection)
    K = manifold.columns(n)
    shape = (tokens, C) if axis == 1 else (C, tokens)
    sizes = {
        "g": shape if name == "leave_backward" else (n, *shape), "gu": shape, "gmix": (tokens, n + n * n),
        "X": (m, *shape), "y": shape, "mix": (tokens, n + n * n),
        "phi": (n * C, K), "alpha": (len(manifold.parts(n)),), "bias": (K,),
        "stat": (tokens, K + manifold.statistics(n)),
        "pre": (tokens, n), "gpre": (tokens, n),
    }  # fmt: skip
    restored = ("X", *(f"{name}_{i}" for i in range(3) for name in ("y", "mix")))
    names = restored if name == "restore" else tensors_of(name)
    kinds = {key: key.split("_")[0] for key in names}
    return {
        key: Spec(sizes[kind], dtype if kind in ("g", "gu", "X", "y") else torch.float32) for key, kind in kinds.items()
    }


def schedule(name: str, inputs: dict[str, Spec], n: int, axis: int = 1, **options: object) -> Schedule:
    """The schedule of a step; a readout has scale 1 / n."""
    scale = (1 / n,) if name.startswith("leave") else ()
    return getattr(schedules, name)(inputs, n, axis, *scale, **options)


@dataclass(frozen=True)
class Row:
    """One kernel on one target; bytes of spills and shared memory."""

    step: str
    kernel: str
    channels: int
    target: str
    registers: int
    spills: int
    shared: int
    tensor_cores: int
    wide_loads: int


def rows(
    targets: Sequence[str],
    n: int,
    channels: Sequence[int],
    dtype: torch.dtype,
    steps: Sequence[str],
    axis: int = 1,
    connection: str = "mhc",
) -> Iterator[Row]:
    """Every kernel of every step, as the default configuration compiles it; `connection` is that of gates."""
    for C, step, target in product(channels, steps, targets):
        inputs = step_specs(step, n, C, dtype, axis=axis, connection=connection)
        options = {"connection": connection} if "phi" in inputs and not step.startswith("single") else {}
        with patch.object(torch.version, "hip", "6.4" if target.startswith("gfx") else None):
            plan = schedule(step, inputs, n, axis, **options)
        for name, kernel in kernels(plan, inputs, TARGETS[target]).items():
            used = resources(kernel)
            yield Row(
                step, name, C, target, used.registers, used.spills, used.shared,
                tensor_core_instructions(kernel), wide_loads(kernel),
            )  # fmt: skip


def main() -> None:
    """Print the table."""
    parser = argparse.ArgumentParser(prog="python -m tests.gpu.compiled.resources", description=__doc__)
    parser.add_argument("--targets", nargs="+", default=list(TARGETS), choices=TARGETS)
    parser.add_argument("--channels", nargs="+", type=int, default=[1024, 4096])
    parser.add_argument("--steps", nargs="+", default=EVERY_STEP, choices=EVERY_STEP)
    parser.add_argument("--streams", type=int, default=4)
    parser.add_argument("--dtype", default="bfloat16")
    parser.add_argument("--connection", default="mhc")
    parser.add_argument("--axis", type=int, default=1, help="1: channels last, 0: first")
    o = parser.parse_args()
    titles = ("kernel", "C", "target", "registers", "spills", "shared", "tensor cores", "16-byte loads")
    print("{:<30}{:>6} {:<7}{:>10}{:>8}{:>8}{:>14}{:>15}".format(*titles))
    for row in rows(o.targets, o.streams, o.channels, getattr(torch, o.dtype), o.steps, o.axis, o.connection):
        print("{:<30}{:>6} {:<7}{:>10}{:>8}{:>8}{:>14}{:>15}".format(*astuple(row)[1:]), flush=True)


if __name__ == "__main__":
    main()
