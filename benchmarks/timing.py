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
    """Seconds of one candidate: the median, the fastest and slowest of the rounds, and all rounds in order."""

    median: float
    fastest: float
    slowest: float
    seconds: tuple[float, ...] = ()


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


def interleaved(
    candidates: Mapping[str, Callable[[], object]],
    rounds: int,
    calls: int = 1,
    clock: Callable[[], float] = time.perf_counter,
) -> dict[str, Timed]:
    """Seconds per call by `clock`; `calls` of every candidate per round, after one untimed round.

    A GPU that is in use is waited for before and after the calls, not between them: where it is the slower one, the
    Python code of the next call is hidden behind it, as in training.
    """
    seconds: dict[str, list[float]] = {name: [] for name in candidates}
    for number in range(rounds + 1):
        for name, run in candidates.items():
            took = _seconds(run, calls, clock)
            if number:
                seconds[name].append(took)
    return {name: Timed(statistics.median(s), min(s), max(s), tuple(s)) for name, s in seconds.items()}


def without_failing(candidates: Mapping[str, Callable[[], object]]) -> dict[str, Callable[[], object]]:
    """On a GPU, those whose first call works; of what others wrote and does not compile it is printed why not."""
    working = {}
    for name, run in candidates.items():
        try:
            run()
        except Exception as error:
            if name.startswith(("ours", "vanilla")) or not torch.cuda.is_initialized():
                raise
            print(f"{name} is left out: {type(error).__name__}: {str(error).strip()[:300]}")
        else:
            working[name] = run
    return working


def _seconds(run: Callable[[], object], calls: int, clock: Callable[[], float]) -> float:
    wait = torch.cuda.synchronize if torch.cuda.is_initialized() else lambda: None
    wait()
    start = clock()
    for _ in range(calls):
        run()
    wait()
    return (clock() - start) / calls


def copy_bandwidth(device: str = "cpu", rounds: int = 7) -> float:
    """Bytes per second that `Tensor.copy_` reads and writes together, between buffers no cache holds."""
    megabytes, calls = (256, 1) if device == "cpu" else (1024, 10)
    source = torch.ones(megabytes << 18, device=device)
    target = torch.empty_like(source)
    timed = interleaved({"copy": lambda: target.copy_(source)}, rounds, calls)["copy"]
    return 2 * source.nbytes / timed.median


def describe(device: str) -> str:
    """What ran the code, for the head of a table."""
    return torch.cuda.get_device_name(device) if device != "cpu" else f"{torch.get_num_threads()} threads"


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
