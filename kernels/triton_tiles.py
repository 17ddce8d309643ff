"""Block sizes of the Triton kernels: what is the fastest on an H100, and what else is worth measuring elsewhere.

Found by a sweep over sizes, warps, pipeline stages and limits of registers (n = 4, bf16, C = 2048, 16,384 tokens).
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass

import torch

from mhc_compile.kernels.schedule import Spec

Inputs = Mapping[str, Spec]


@dataclass(frozen=True)
class Tiles:
    """Tokens and channels that a program takes at once, and its warps."""

    tokens: int
    channels: int
    warps: int


PROJECTING = Tiles(64, 32, 4), Tiles(128, 32, 8), Tiles(16, 32, 4), Tiles(16, 32, 2)
WRITING_AND_PROJECTING = Tiles(16, 32, 2), Tiles(64, 16, 4), Tiles(16, 16, 1), Tiles(32, 16, 2)
BEHIND_A_GATE = Tiles(16, 32, 4), Tiles(16, 64, 8), Tiles(16, 64, 4), Tiles(16, 32, 2)
ELEMENTWISE = Tiles(16, 64, 4), Tiles(16, 128, 4), Tiles(16, 32, 4), Tiles(16, 64, 8)
LOGITS = READ = Tiles(16, 128, 4)
PRODUCTS = Tiles(32, 64, 4)
_CHOICES = {
    "gate": PROJECTING,
    "boundary": WRITING_AND_PROJECTING,
    "gate_backward": BEHIND_A_GATE,
    "boundary_backward": BEHIND_A_GATE,
}


def configurations(step: str, inputs: Inputs, n: int) -> tuple[Tiles, ...]:
    """What is measured on a real device for the kernel of a step that costs the most, the default first."""
    return tuple(fitted(tiles, inputs, n) for tiles in _CHOICES.get(step, ELEMENTWISE))


def fitted(tiles: Tiles, inputs: Inputs, n: int) -> Tiles:
    """As many registers with more streams or wider elements; warps of AMD have 64 threads."""
    narrower = (1 if n <= 4 else 2) * (2 if widest(inputs) == 4 else 1)
    return Tiles(
        tiles.tokens, max(16, tiles.channels // narrower), max(1, tiles.warps // (2 if torch.version.hip else 1))
    )


def widest(inputs: Inputs) -> int:
    """Bytes of the widest element among streams and branches."""
    return max(inputs[name].dtype.itemsize for name in ("X", "y", "g", "gu") if name in inputs)
