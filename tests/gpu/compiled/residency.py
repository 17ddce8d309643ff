"""`python -m tests.gpu.compiled.residency`: does what a boundary kernel writes and reads again stay in the L2 cache?

A program writes X' of its tokens and, once their coefficients are known, reads it again. All programs that run at the
same time hold `programs x tokens x n x C` elements. How many run follows from registers and shared memory.
"""

from __future__ import annotations

from dataclasses import dataclass

import torch

from mhc_compile.kernels.triton_schedules import configurations
from tests.gpu.compiled.resources import rows, step_specs

REGISTERS = 65536  # of a multiprocessor
THREADS = 2048


@dataclass(frozen=True)
class Device:
    """A GPU: compute capability, multiprocessors, bytes of shared memory in each, bytes of L2 cache."""

    target: str
    processors: int
    shared: int
    l2: int


DEVICES = {
    "A100": Device("sm_80", 108, 164 << 10, 40 << 20),
    "H100": Device("sm_90", 132, 228 << 10, 50 << 20),
}


def held_bytes(device: Device, channels: int, n: int, dtype: torch.dtype) -> int:
    """Bytes of X' that all resident programs of the default configuration hold."""
    (row,) = rows([device.target], n, [channels], dtype, ["boundary"])
    tiles = configurations(step_specs("boundary", n, channels, dtype), n)[0]
    threads = 32 * tiles.warps
    programs = min(REGISTERS // (row.registers * threads), device.shared // max(row.shared, 1), THREADS // threads)
    return device.processors * programs * tiles.tokens * n * channels * dtype.itemsize


def main() -> None:
    """Print a line for each device, dtype and number of channels."""
    for name, device in DEVICES.items():
        for dtype in (torch.bfloat16, torch.float32):
            for channels in (1024, 4096):
                held = held_bytes(device, channels, 4, dtype)
                verdict = "fits" if held <= device.l2 else "does not fit"
                sizes = f"{held / 2**20:.0f} MiB of X' in flight, L2 {device.l2 / 2**20:.0f} MiB"
                print(f"{name}, {str(dtype).removeprefix('torch.')}, n = 4, C = {channels}: {sizes}: {verdict}")


if __name__ == "__main__":
    main()
