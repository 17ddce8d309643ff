"""Block sizes of the Triton kernels: what is the fastest on an H100, and what else may be elsewhere.

From `python -m benchmarks.tiles` there: n = 4, C = 2048, 8,192 tokens and more, bf16 and fp32.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, replace

import torch

from mhc_compile.kernels.schedule import Spec

Inputs = Mapping[str, Spec]

MANY = 4  # streams; more take other tiles


@dataclass(frozen=True)
class Tiles:
    """Tokens and channels that a program takes at once, its warps, and how many steps ahead its loops load."""

    tokens: int
    channels: int
    warps: int
    stages: int = 3


_HALF = {
    "gate": (Tiles(64, 32, 4), Tiles(128, 32, 8)),
    "boundary": (Tiles(16, 32, 2), Tiles(64, 16, 4)),
    "gate_backward": (Tiles(16, 32, 4), Tiles(16, 64, 8)),
    "boundary_backward": (Tiles(16, 32, 4), Tiles(16, 64, 8)),
    "read": (Tiles(16, 128, 4),),
    "logits": (Tiles(16, 128, 4),),
    "products": (Tiles(32, 64, 4),),
    "elementwise": (Tiles(16, 64, 4),),  # and all the others: they run near the speed of memory
}
_FULL = {
    "gate": (Tiles(64, 16, 4), Tiles(16, 16, 2)),
    "boundary": (Tiles(16, 16, 2), Tiles(64, 16, 4)),
    "gate_backward": (Tiles(16, 64, 4), Tiles(16, 32, 2)),
    "boundary_backward": (Tiles(16, 64, 4), Tiles(16, 32, 2)),
    "products": (Tiles(16, 32, 2),),
    "elementwise": (Tiles(16, 64, 4),),
}
"""Kernel -> tiles, the fastest first, for elements of two and of four bytes; a step stands for its costliest kernel."""

_HALF_MANY = {
    "gate": (Tiles(32, 16, 4, 2),),
    "boundary": (Tiles(16, 16, 4, 2),),
    "gate_backward": (Tiles(16, 32, 8, 2),),
    "boundary_backward": (Tiles(16, 32, 8, 2),),
    "logits": (Tiles(16, 64, 8),),
    "products": (Tiles(16, 32, 8),),
    "elementwise": (Tiles(16, 32, 4),),
}
_FULL_MANY = {
    **_HALF_MANY,
    "boundary": (Tiles(16, 16, 8, 2),),
    "gate_backward": (Tiles(16, 32, 8, 1),),
    "boundary_backward": (Tiles(16, 32, 8, 1),),
}
"""The same for more than four streams, not timed: few spilled registers, and shared memory that an A100 has."""


def configurations(kernel: str, inputs: Inputs, n: int) -> tuple[Tiles, ...]:
    """What is worth measuring on a real device; the first is what is taken without."""
    few, many = (_FULL, _FULL_MANY) if widest(inputs) == 4 else (_HALF, _HALF_MANY)
    table = few if n <= MANY else many
    found = table.get(kernel, table["elementwise"])
    return tuple(map(_for_amd, found)) if torch.version.hip else found


def _for_amd(tiles: Tiles) -> Tiles:
    """A warp has 64 threads there, and larger tiles would spill registers; compiled, not timed."""
    return replace(tiles, tokens=16, channels=min(tiles.channels, 32), warps=max(1, tiles.warps // 2))


def widest(inputs: Inputs) -> int:
    """Bytes of the widest element among streams and branches."""
    return max(inputs[name].dtype.itemsize for name in ("X", "y", "g", "gu") if name in inputs)
