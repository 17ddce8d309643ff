"""A GPU that is not there: under `fake_cuda()` Inductor compiles fake CUDA tensors as it would for an H100.

Only what the compiler asks about the device is answered; nothing can run.
"""

from __future__ import annotations

import functools
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager, nullcontext
from types import ModuleType, SimpleNamespace
from typing import Any
from unittest import mock

import torch
import torch._inductor.utils
import torch.utils._triton
import triton
from torch._dynamo.device_interface import CudaInterface
from torch._inductor.runtime.hints import DeviceProperties
from triton.backends.compiler import GPUTarget

PROPERTIES = {
    "name": "NVIDIA H100",
    "multi_processor_count": 132,
    "warp_size": 32,
    "regs_per_multiprocessor": 65536,
    "max_threads_per_multi_processor": 2048,
    "max_threads_per_block": 1024,
    "total_memory": 80 << 30,
    "shared_memory_per_block": 48 << 10,
    "shared_memory_per_block_optin": 227 << 10,
    "L2_cache_size": 50 << 20,
    "gcnArchName": "",
}
"""Those of an H100, whatever the capability."""


class _Driver:
    """What Triton asks its driver while it compiles."""

    def __init__(self, capability: tuple[int, int]) -> None:
        self.target = GPUTarget("cuda", 10 * capability[0] + capability[1], 32)

    def get_current_target(self) -> GPUTarget:
        return self.target

    def get_current_device(self) -> int:
        return 0

    def get_active_torch_device(self) -> torch.device:
        return torch.device("cuda", 0)

    def get_current_stream(self, device: int = 0) -> int:
        return 0


@contextmanager
def fake_cuda(capability: tuple[int, int] = (9, 0)) -> Iterator[None]:
    """Pretend that `cuda:0` exists, with this compute capability."""
    driver, before = triton.runtime.driver, triton.runtime.driver._active
    with ExitStack() as stack:
        for patch in _patches(capability):
            stack.enter_context(patch)
        driver.set_active(_Driver(capability))
        _forget_devices()
        try:
            yield
        finally:
            driver._active = before
            _forget_devices()


def _patches(capability: tuple[int, int]) -> Iterator[Any]:
    major, minor = capability
    properties = SimpleNamespace(**PROPERTIES, major=major, minor=minor)
    asked = {
        "is_available": True,
        "device_count": 1,
        "current_device": 0,
        "get_device_properties": properties,
        "get_device_capability": capability,
        "get_rng_state": torch.zeros(16, dtype=torch.uint8),
        "set_rng_state": None,
        "_lazy_init": None,
        "_exchange_device": 0,
        "_maybe_exchange_device": 0,
        "device": nullcontext(),
    }
    for name, answer in asked.items():
        yield mock.patch.object(torch.cuda, name, _always(answer))
    for name in ("is_available", "is_triton_capable", "get_device_properties", "get_compute_capability"):
        answer = {"get_device_properties": properties, "get_compute_capability": 10 * major + minor}.get(name, True)
        yield mock.patch.object(CudaInterface, name, staticmethod(_always(answer)))
    for name, answer in (("get_device_properties", properties), ("current_device", 0)):
        yield mock.patch.object(CudaInterface.Worker, name, staticmethod(_always(answer)))


def _always(answer: Any) -> Any:
    return lambda *args, **kwargs: answer


def _forget_devices() -> None:
    """Empty PyTorch's caches of what devices there are and can do."""
    modules: tuple[ModuleType, ...] = (torch.utils._triton, torch._inductor.utils)
    for value in [value for module in modules for value in vars(module).values()]:
        if isinstance(value, functools._lru_cache_wrapper):
            value.cache_clear()
    DeviceProperties.create.__func__.cache_clear()
