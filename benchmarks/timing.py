"""Timing of several candidates in one run, one call of each in turn, so that they meet the same machine."""

from __future__ import annotations

import ctypes
import statistics
import time
from collections.abc import Callable, Mapping
from dataclasses import dataclass

import torch
from torch import Tensor, nn

M_TRIM_THRESHOLD, M_MMAP_MAX = -1, -4  # malloc.h


@dataclass(frozen=True)
class Timed:
    """Seconds of one candidate: the median, and the fastest and slowest of the rounds."""

    median: float
    fastest: float
    slowest: float


def keep_freed_memory() -> None:
    """Let the C allocator keep what is freed, as tcmalloc and jemalloc do; call it before anything is measured.

    glibc hands every large block back to the system, and the next one is faulted in page by page. On a virtual machine
    that costs more than the arithmetic on those pages, and differs from call to call.
    """
    libc = ctypes.CDLL(None)
    if not hasattr(libc, "mallopt"):
        return  # not glibc
    for option, value in ((M_MMAP_MAX, 0), (M_TRIM_THRESHOLD, 2**31 - 1)):
        libc.mallopt(option, value)


def interleaved(candidates: Mapping[str, Callable[[], object]], rounds: int) -> dict[str, Timed]:
    """Call every candidate once per round, after one untimed round."""
    seconds: dict[str, list[float]] = {name: [] for name in candidates}
    for number in range(rounds + 1):
        for name, run in candidates.items():
            start = time.perf_counter()
            run()
            if number:
                seconds[name].append(time.perf_counter() - start)
    return {name: Timed(statistics.median(s), min(s), max(s)) for name, s in seconds.items()}


def copy_bandwidth(megabytes: int = 256, rounds: int = 7) -> float:
    """Bytes per second that `Tensor.copy_` reads and writes together, between buffers no cache holds."""
    source = torch.ones(megabytes << 18)
    target = torch.empty_like(source)
    timed = interleaved({"copy": lambda: target.copy_(source)}, rounds)["copy"]
    return 2 * source.nbytes / timed.median


@dataclass(frozen=True)
class Saved:
    """Bytes kept for the backward: activations, and parameters that the backward reads (they are kept anyway)."""

    activations: int
    parameters: int

    @property
    def total(self) -> int:
        """What hooks on saved tensors see."""
        return self.activations + self.parameters


def saved_bytes(model: nn.Module, forward: Callable[[], Tensor]) -> Saved:
    """What `forward` keeps for the backward, each storage once."""
    own = {t.untyped_storage().data_ptr() for t in (*model.parameters(), *model.buffers())}
    kept: dict[int, int] = {}

    def pack(tensor: Tensor) -> Tensor:
        storage = tensor.untyped_storage()
        kept[storage.data_ptr()] = storage.nbytes()
        return tensor

    with torch.autograd.graph.saved_tensors_hooks(pack, lambda tensor: tensor):
        result = forward()
    parameters = sum(size for address, size in kept.items() if address in own)
    saved = Saved(sum(kept.values()) - parameters, parameters)
    del result
    return saved
