"""Autocast around a trace, and around the calls that it serves."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import AbstractContextManager, ExitStack, contextmanager
from functools import wraps
from typing import Any
from unittest import mock

import torch

ASKS_AUTOCAST = (torch.is_autocast_enabled, torch.is_autocast_cpu_enabled, torch.get_autocast_dtype,
                 torch.get_autocast_cpu_dtype, torch.get_autocast_gpu_dtype)  # fmt: skip
"""Functions by which code asks whether autocast is on: a branch may have been taken for the answer."""

_DEVICES = ("cpu", "cuda")


@contextmanager
def without_autocast() -> Iterator[None]:
    """A dtype that autocast chooses would be baked into the graph, which itself runs under any autocast."""
    with ExitStack() as stack:
        for device in _DEVICES:
            stack.enter_context(torch.autocast(device, enabled=False))
        stack.enter_context(_nothing_on_meta())
        yield


def _nothing_on_meta() -> AbstractContextManager[Any]:
    """`torch.autocast(x.device.type, ...)`, an error where `x` has no memory: a trace there is of shapes alone."""
    start = torch.autocast.__init__

    @wraps(start)  # Dynamo looks its arguments up by the signature
    def __init__(self: torch.autocast, device_type: str, *args: Any, **kwargs: Any) -> None:
        if device_type != "meta":
            return start(self, device_type, *args, **kwargs)
        return start(self, "cpu", enabled=False)

    return mock.patch.object(torch.autocast, "__init__", __init__)


def autocast_state() -> tuple[Any, ...]:
    """For each kind of device, the dtype in which autocast computes there, None where it is off."""
    return tuple(torch.get_autocast_dtype(d) if torch.is_autocast_enabled(d) else None for d in _DEVICES)
