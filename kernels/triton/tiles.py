"""Block sizes of the Triton kernels: what is the fastest on an H100, and what else may be elsewhere.

From sweeps there, as `python -m benchmarks.tiles` makes them: n = 4, C = 2048, 8,192 tokens and more, bf16 and fp32.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from functools import reduce

import torch

from mhc_compile.kernels.schedules.schedule import Spec

Inputs = Mapping[str, Spec]

FEW = 4  # streams; more take other tiles


@dataclass(frozen=True)
class Tiles:
    """Tokens and channels that a program takes at once, its warps, and how many steps ahead its loops load."""

    tokens: int
    channels: int
    warps: int
    stages: int = 3


_HALF = {
    "gate": (Tiles(64, 32, 4), Tiles(16, 32, 4)),
    "boundary": (Tiles(16, 32, 2), Tiles(64, 16, 4)),
    "gate_backward": (Tiles(16, 32, 4), Tiles(16, 64, 8)),
    "boundary_backward": (Tiles(16, 32, 4), Tiles(16, 64, 8)),
    "read": (Tiles(16, 128, 4),),
    "logits": (Tiles(16, 128, 4),),
    "products": (Tiles(32, 64, 4),),
    "others": (Tiles(16, 64, 4),),  # all of which run near the speed of memory
}
_HALF_CHANNELS_FIRST = {
    **_HALF,
    "boundary": (Tiles(16, 32, 4),),
    "boundary_backward": (Tiles(16, 64, 8), Tiles(16, 32, 4)),
}
_FULL = {
    "gate": (Tiles(64, 16, 4), Tiles(16, 16, 2)),
    "boundary": (Tiles(16, 16, 2), Tiles(64, 16, 4)),
    "gate_backward": (Tiles(16, 64, 4), Tiles(16, 32, 2)),
    "boundary_backward": (Tiles(16, 64, 4), Tiles(16, 32, 2)),
    "products": (Tiles(16, 32, 2),),
    "others": (Tiles(16, 64, 4),),
}
"""Kernel -> tiles, the fastest first, for elements of two and of four bytes; a step stands for its costliest kernel.

Timed with the channels last. With the channels first, those that spill the fewest registers.
"""

_HALF_MANY = {
    "gate": (Tiles(32, 16, 4, 2),),
    "boundary": (Tiles(16, 16, 4, 2),),
    "gate_backward": (Tiles(16, 32, 8, 2),),
    "boundary_backward": (Tiles(16, 32, 8, 2),),
    "logits": (Tiles(16, 64, 8),),
    "products": (Tiles(16, 32, 8),),
    "others": (Tiles(16, 32, 4),),
}
_FULL_MANY = {
    **_HALF_MANY,
    "boundary": (Tiles(16, 16, 8, 2),),
    "gate_backward": (Tiles(16, 32, 8, 1),),
    "boundary_backward": (Tiles(16, 32, 8, 1),),
}
"""The same for more than four streams, not timed: few spilled registers, and shared memory that an A100 has."""


def configurations(kernel: str, inputs: Inputs, n: int, axis: int, *, hyper: bool = False) -> tuple[Tiles, ...]:
    """What is worth measuring on a real device; the first is what is taken without.

    `hyper`: each stream has a norm of its own, which takes registers.
    """
    kernel = kernel.removeprefix("single_")  # not timed yet: those of the steps they differ little from
    last = axis == len(inputs["X"].shape) - 2 and not (hyper and kernel == "boundary")
    table = _table(widest(inputs) == 4, n > FEW, last)
    found = table.get(kernel, table["others"])
    return tuple(_for_amd(tiles, n) for tiles in found) if torch.version.hip else found


def _table(full: bool, many: bool, last: bool) -> Mapping[str, tuple[Tiles, ...]]:
    if full:
        return _FULL_MANY if many else _FULL
    if many:
        return _HALF_MANY
    return _HALF if last else _HALF_CHANNELS_FIRST


def _for_amd(tiles: Tiles, n: int) -> Tiles:
    """A warp has 64 threads there, shared memory is 64 KiB, and larger tiles would spill; compiled, not timed."""
    warps, stages = max(1, tiles.warps // 2), 2 if n <= FEW else 1
    return Tiles(16, min(tiles.channels, 32), warps, min(tiles.stages, stages))


def widest(inputs: Inputs) -> int:
    """Bytes of an element of streams, branch and their gradients taken together."""
    dtypes = (inputs[name].dtype for name in ("X", "y", "g", "gu") if name in inputs)
    return reduce(torch.promote_types, dtypes).itemsize
