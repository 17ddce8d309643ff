"""A fused step as data: which buffers it needs and which kernels run on them, in order.

Written once per step and device, read twice: eager execution allocates the buffers and launches the kernels, an
Inductor lowering allocates the same buffers in the compiler's memory plan and puts the same launches into its program.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any

import torch

Size = Any  # int, or a symbolic size while a compiler traces


@dataclass(frozen=True)
class Spec:
    """What a schedule depends on about a tensor; all tensors are contiguous."""

    shape: tuple[Size, ...]
    dtype: torch.dtype


@dataclass(frozen=True)
class Launch:
    """One kernel call.

    Attributes:
        kernel: a `triton.jit` function, or a `CppKernel`.
        tensors: parameter name of the kernel -> name of an input of the step or of a buffer.
        sizes: parameter name -> integer that may change from call to call.
        constants: parameter name -> value the kernel is compiled for.
        grid: programs to launch, up to three numbers; empty for the CPU.
        options: keywords of a Triton launch, such as `num_warps`.
    """

    kernel: Any
    tensors: Mapping[str, str]
    sizes: Mapping[str, Size] = field(default_factory=dict)
    constants: Mapping[str, Any] = field(default_factory=dict)
    grid: tuple[Size, ...] = ()
    options: Mapping[str, int] = field(default_factory=dict)


@dataclass(frozen=True)
class Schedule:
    """The launches of one step.

    Attributes:
        buffers: name -> what to allocate, uninitialised: results and scratch.
        launches: in order.
        results: names of the buffers that the step returns, in the order of `packed.py`.
    """

    buffers: Mapping[str, Spec]
    launches: tuple[Launch, ...]
    results: tuple[str, ...]
