"""Which code computes the fused steps: Triton on CUDA, C++ on the CPU, plain PyTorch for what these do not cover."""

from __future__ import annotations

import logging
from functools import cache
from importlib import import_module
from typing import Any

import torch
from torch import Tensor

from mhc_compile.kernels.formulas import packed
from mhc_compile.kernels.formulas.lookup import manifold_of

_LOG = logging.getLogger("mhc_compile")
_FAMILIES = {"cuda": "triton", "cpu": "cpu"}  # device type -> the room with the modules `schedules` and `launch`


def implementation(X: Tensor, y: Tensor | None, n: int, connection: str | None = None) -> Any:
    """A module with the functions of `packed.py`: the fastest that covers these streams, branch and coefficients."""
    return chosen(X.device.type, step_dtype(X.dtype, None if y is None else y.dtype), n, connection)


def step_dtype(streams: torch.dtype, branch: torch.dtype | None) -> torch.dtype:
    """The dtype that decides whether kernels cover a step: that of what it computes."""
    return streams if branch is None else torch.promote_types(streams, branch)


def why_not_covered(device: str, dtype: torch.dtype, n: int, connection: str | None = None) -> str | None:
    """Why there are no kernels for this device type, `step_dtype` and number of streams; None if there are.

    `connection` is that of a step with coefficients; None asks for the others.
    """
    if device not in _FAMILIES:
        return f"no kernels for the device type {device!r}"
    projection = None if connection is None else manifold_of(connection).projection
    reason: str | None = schedules(device).covers(dtype, n, projection)
    return reason


def schedules(device: str) -> Any:
    """The module of `schedule.Schedule`s for a device type that has one."""
    return import_module(f"mhc_compile.kernels.{_FAMILIES[device]}.schedules")


@cache
def chosen(device: str, dtype: torch.dtype, n: int, connection: str | None = None) -> Any:
    """`implementation` by device type and `step_dtype`."""
    reason = why_not_covered(device, dtype, n, connection)
    if reason is None:
        return import_module(f"mhc_compile.kernels.{_FAMILIES[device]}.launch")
    _LOG.info("the mixing runs in plain PyTorch: %s", reason)  # once: the choice is cached
    return packed
