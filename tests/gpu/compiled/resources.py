"""Table of registers, shared memory and spills of every kernel: `python -m tests.gpu.compiled.resources`."""

from __future__ import annotations

import argparse
from collections.abc import Iterator

import torch

from mhc_compile.kernels import triton_schedules as schedules
from mhc_compile.kernels.schedule import Schedule, Spec
from tests.gpu.compiled.cubin import TARGETS, kernels, resources, tensor_core_instructions, wide_loads

STEPS = ("gate", "write", "boundary", "leave")


def step_specs(
    name: str, n: int, C: int, dtype: torch.dtype, *, tokens: int = 4096, m: int | None = None, axis: int = 1
) -> dict[str, Spec]:
    """The inputs of a step, with the channels last (`axis=1`) or first (`axis=0`)."""
    m, K = m or n, n * n + 2 * n
    shape = (tokens, C) if axis == 1 else (C, tokens)
    sizes = {
        "g": shape if name == "leave_backward" else (n, *shape), "gu": shape, "gmix": (tokens, n + n * n),
        "X": (m, *shape), "y": shape, "mix": (tokens, n + n * n),
        "phi": (n * C, K), "alpha": (3,), "bias": (K,), "stat": (tokens, K + 1),
    }  # fmt: skip
    parameters = ("phi", "alpha", "bias")
    names = {
        "gate": ("X", *parameters),
        "write": ("X", "y", "mix"),
        "boundary": ("X", "y", "mix", *parameters),
        "leave": ("X", "y", "mix"),
        "gate_backward": ("gu", "gmix", "X", *parameters, "stat"),
        "write_backward": ("g", "X", "y", "mix"),
        "boundary_backward": ("g", "gu", "gmix", "X", "y", "mix", *parameters, "stat"),
        "leave_backward": ("g", "X", "y", "mix"),
    }[name]
    return {key: Spec(sizes[key], dtype if key in ("g", "gu", "X", "y") else torch.float32) for key in names}


def schedule(name: str, inputs: dict[str, Spec], n: int, axis: int = 1, **options: object) -> Schedule:
    """The schedule of a step; a readout has scale 1 / n."""
    scale = (1 / n,) if name.startswith("leave") else ()
    return getattr(schedules, name)(inputs, n, axis, *scale, **options)


def rows(
    targets: list[str], n: int, channels: list[int], dtype: torch.dtype, steps: list[str], axis: int = 1
) -> Iterator[tuple[object, ...]]:
    """(step, kernel, C, target, registers, spills, shared, tensor-core instructions, 16-byte loads)."""
    for C in channels:
        for step in steps:
            inputs = step_specs(step, n, C, dtype, axis=axis)
            plan = schedule(step, inputs, n, axis)
            for target in targets:
                for name, kernel in kernels(plan, inputs, TARGETS[target]).items():
                    used, mma, wide = resources(kernel), tensor_core_instructions(kernel), wide_loads(kernel)
                    yield step, name, C, target, used.registers, used.spills, used.shared, mma, wide


def main() -> None:
    parser = argparse.ArgumentParser()
    parser.add_argument("--targets", nargs="+", default=["sm_80", "sm_90", "sm_100"])
    parser.add_argument("--channels", nargs="+", type=int, default=[1024, 4096])
    parser.add_argument("--steps", nargs="+", default=[*STEPS, *(f"{s}_backward" for s in STEPS)])
    parser.add_argument("--streams", type=int, default=4)
    parser.add_argument("--dtype", default="bfloat16")
    parser.add_argument("--axis", type=int, default=1)
    args = parser.parse_args()
    titles = ("step", "kernel", "C", "target", "regs", "spill", "shared", "mma", "16-byte")
    widths = (18, 26, 6, 8, 6, 6, 8, 5, 8)
    print("".join(f"{t:<{w}}" for t, w in zip(titles, widths, strict=True)))
    for row in rows(args.targets, args.streams, args.channels, getattr(torch, args.dtype), args.steps, args.axis):
        print("".join(f"{v!s:<{w}}" for v, w in zip(row, widths, strict=True)), flush=True)


if __name__ == "__main__":
    main()
