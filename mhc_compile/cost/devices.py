"""The devices an estimate can be made for: what their makers publish, or what this CPU was measured to do."""

from __future__ import annotations

import time
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from types import MappingProxyType

from mhc_compile.errors import InvalidOptionError


@dataclass(frozen=True)
class Device:
    """Peak speeds of a device, and the part of them that code reaches.

    Attributes:
        name: as a user writes it.
        title: as its maker calls it.
        flops: dtype -> FLOP per second of dense matrix products.
        bandwidth: bytes per second between memory and chip.
        memory: bytes of memory, 0 where it is not known.
        flops_reached: part of `flops` that matrix products reach.
        bandwidth_reached: part of `bandwidth` that passes over memory reach.
        launch: seconds that a kernel takes at least.
        source: where the numbers come from.
    """

    name: str
    title: str
    flops: Mapping[str, float] = field(hash=False)
    bandwidth: float
    memory: float
    flops_reached: float
    bandwidth_reached: float
    launch: float
    source: str

    def flop_rate(self, dtype: str) -> float:
        """FLOP per second that matrix products of this dtype are taken to reach."""
        known = self.flops.get(dtype, self.flops["float32"])
        return known * self.flops_reached

    def product_rate(self, columns: int) -> float:
        """FLOP per second of products with phi, which is fp32: on a GPU TF32.

        On a CPU they were timed alone (a boundary at C = 384 and 1024, less its bytes): like a large product at 24
        columns, 1.2 times that at 80, which fill the registers better.
        """
        if self.name != "cpu":
            return self.flop_rate("tf32")
        return self.flops["float32"] * (1 + 0.2 * min(1.0, max(0.0, (columns - 24) / 56)))

    @property
    def byte_rate(self) -> float:
        """Bytes per second that passes over memory are taken to reach."""
        return self.bandwidth * self.bandwidth_reached


_ASSUMED = "published by the maker, dense; 60 % of the FLOPs and 80 % of the bandwidth are assumed to be reached"


def _gpu(name: str, title: str, half: float, tf32: float, single: float, bandwidth: float, memory: float) -> Device:
    flops = {"bfloat16": half, "float16": half, "tf32": tf32, "float32": single}
    return Device(name, title, flops, bandwidth, memory, 0.6, 0.8, 2e-6, _ASSUMED)


GPUS: Mapping[str, Device] = MappingProxyType(
    {
        device.name: device
        for device in (
            _gpu("h100", "NVIDIA H100 SXM", 989e12, 494e12, 67e12, 3.35e12, 80e9),
            _gpu("a100", "NVIDIA A100 SXM 80 GB", 312e12, 156e12, 19.5e12, 2.039e12, 80e9),
            _gpu("b200", "NVIDIA B200", 2250e12, 1125e12, 75e12, 8e12, 180e9),
            _gpu("mi300x", "AMD Instinct MI300X", 1307e12, 654e12, 163e12, 5.3e12, 192e9),
        )
    }
)
NAMES = (*GPUS, "cpu")


def check_device(name: str) -> str:
    """The name of a device that is known.

    Raises:
        InvalidOptionError: it is not.
    """
    if name.lower() not in NAMES:
        raise InvalidOptionError(f"the device {name!r} is not known: write one of {', '.join(NAMES)}")
    return name.lower()


def find_device(name: str) -> Device:
    """The device called so; the CPU is measured, which takes about a second.

    Raises:
        InvalidOptionError: it is not known.
    """
    return measured_cpu() if check_device(name) == "cpu" else GPUS[name.lower()]


def measured_cpu() -> Device:
    """This machine: what a matrix product and a copy reach in fp32 on the threads that PyTorch has now."""
    import torch

    threads = torch.get_num_threads()
    clock = time.process_time if threads == 1 else time.perf_counter  # what else runs does not count
    a, b, product = torch.ones(512, 768), torch.ones(768, 512), torch.empty(512, 512)
    flops = 2 * 512 * 768 * 512 / _fastest(lambda: torch.mm(a, b, out=product), clock)
    source = torch.ones(16 << 20)
    target = torch.empty_like(source)
    bandwidth = 2 * source.nbytes / _fastest(lambda: target.copy_(source), clock)
    title = f"this CPU, {threads} thread{'s' if threads > 1 else ''}"
    told = (
        "measured just now: a product of 512 x 768 x 512 and a copy of 64 MB in fp32, the fastest of 40; "
        "85 % of the FLOPs are assumed to be reached by the products of a model"
    )
    return Device("cpu", title, {"float32": flops}, bandwidth, 0.0, 0.85, 1.0, 5e-6, told)


def _fastest(run: Callable[[], object], clock: Callable[[], float], calls: int = 40) -> float:
    """Seconds of the fastest call but the first, which warms up: short ones, that little else interrupts."""
    run()
    seconds = []
    for _ in range(calls):
        start = clock()
        run()
        seconds.append(clock() - start)
    return min(seconds)
