"""Which tiles are the fastest on this device: where there is a choice it is measured once, and the answer is kept.

The answer is shared by all batch sizes of one power of two, so that a changing batch does not measure again and again.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from functools import partial
from typing import Any

import torch
from triton.runtime.errors import OutOfResources
from triton.testing import do_bench

from mhc_compile.kernels.schedules.schedule import Schedule, Spec
from mhc_compile.kernels.triton.tiles import Tiles, configurations

Step = Callable[..., Schedule]
Run = Callable[[Schedule], object]

_FASTEST: dict[tuple[Any, ...], Tiles] = {}  # what was measured in this process: a cache, not a setting


def fastest(step: Step, specs: Mapping[str, Spec], constants: tuple[Any, ...], run: Run) -> Tiles:
    """The fastest of `configurations` for this step; `run` runs a schedule on the tensors at hand."""
    key = (step.__name__, constants, _sizes(specs), torch.cuda.current_device())
    if key not in _FASTEST:
        first, *others = configurations(step.__name__, specs, *constants[:2])
        schedules = {tiles: step(specs, *constants, tiles) for tiles in (first, *others)}
        measured = {tiles: _milliseconds(partial(run, schedules[tiles])) for tiles in schedules if others}
        _FASTEST[key] = min(measured, key=measured.__getitem__, default=first)
    return _FASTEST[key]


def _sizes(specs: Mapping[str, Spec]) -> tuple[Any, ...]:
    """Dtypes and shapes, each size rounded up to a power of two."""
    return tuple((name, s.dtype, tuple((size - 1).bit_length() for size in s.shape)) for name, s in specs.items())


def _milliseconds(call: Callable[[], object]) -> float:
    try:
        return float(do_bench(call, warmup=5, rep=20, return_mode="median"))
    except OutOfResources:  # this device has too little shared memory or too few registers for these tiles
        return float("inf")
