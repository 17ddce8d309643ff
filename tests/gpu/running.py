"""A generated CUDA program, forward and backward, run on the CPU: kernels in Triton's interpreter, `mm` through ATen.

Needs `TRITON_INTERPRET=1` from the start of the process. Every buffer is full of NaN at first, so what no kernel writes
shows. Sizes, strides and memory reuse are those of the program; streams and alignment mean nothing here. Where a GPU
rounds to bf16, the interpreter cuts digits off.
"""

from __future__ import annotations

import inspect
import re
from collections.abc import Mapping, Sequence
from typing import Any

import torch
import triton
import triton.language as tl
from torch import Tensor

from tests.gpu.kernel_source import load
from tests.gpu.program import Program, Stage

BLOCKS = {"XBLOCK": 16, "YBLOCK": 16, "ZBLOCK": 1, "R0_BLOCK": 32}
"""Block sizes of Inductor's own kernels; on a GPU it measures them."""

_SWITCHED_OFF = (
    (r"^from torch\._C import _cuda_getCurrentRawStream as get_raw_stream$", "get_raw_stream = lambda device: 0"),
    (r"^from torch\._C\._dynamo\.guards import copy_if_misaligned$", "copy_if_misaligned = lambda tensor: tensor"),
    (r"^empty_strided_cuda = .*$", "empty_strided_cuda = _nan"),
    (r"^async_compile = .*$", "async_compile = _Interpreter()"),
    (r"with torch\.cuda\._DeviceGuard\(0\):", "if True:"),
    (r"^( +)torch\.cuda\.set_device\(0\)$", r"\1pass"),
)


def run(program: Program, values: Mapping[str, Tensor], grad: Tensor) -> tuple[Tensor, dict[str, Tensor]]:
    """The output for these parameters and inputs, and the gradient of each by name from the gradient of the output."""
    primals = [values[name].detach().clone() for name in program.names]
    known = dict(zip(program.forward.inputs, primals, strict=True))
    known.update(zip(program.forward.outputs, _call(program.forward, primals), strict=True))
    output = known[program.forward.outputs[0]].clone()  # the backward may reuse its memory
    found = _call(program.backward, [known.get(name, grad) for name in program.backward.inputs])
    return output, {name: value for name, value in zip(program.names, found, strict=True) if value is not None}


def _call(stage: Stage, arguments: Sequence[Any]) -> Sequence[Any]:
    names = {"_nan": _nan, "_Interpreter": _Interpreter, "__name__": "generated"}
    source = stage.source
    for pattern, replacement in _SWITCHED_OFF:
        source = re.sub(pattern, replacement, source, flags=re.MULTILINE)
    exec(source, names)
    return names["call"](list(arguments))


def _nan(size: Sequence[int], stride: Sequence[int], dtype: torch.dtype) -> Tensor:
    buffer = torch.empty_strided(size, stride, dtype=dtype)
    return buffer.fill_(float("nan") if dtype.is_floating_point else 1)


class _Interpreter:
    """In place of `AsyncCompile`."""

    def triton(self, name: str, source: str, device_str: str) -> Any:
        """The kernel of a source; the interpreter has no libdevice."""
        return _Kernel(*load(name, re.sub(r"\b(libdevice|tl_math)\.", "tl.math.", source)))

    def wait(self, names: Any) -> None:
        """Nothing is compiled in the background."""


class _Kernel:
    """A kernel that the program starts with `run`; its constants are known, and its grid if it is hand-written."""

    def __init__(self, function: Any, triton_meta: Mapping[str, Any], inductor_meta: Mapping[str, Any]) -> None:
        parameters = inspect.signature(function.fn).parameters.values()
        constants = {p.name for p in parameters if p.annotation is tl.constexpr}
        known = {**BLOCKS, **triton_meta["constants"]}
        self.function = function
        self.constants = {name: known[name] for name in constants}
        self.passed = [p.name for p in parameters if p.name not in constants]
        self.grid_is_passed = inductor_meta["grid_type"] == "FixedGrid"

    def run(self, *args: Any, stream: int) -> None:
        """Start one program after the other."""
        given, grid = (args[:-3], args[-3:]) if self.grid_is_passed else (args, None)
        arguments = {**self.constants, **dict(zip(self.passed, given, strict=True))}
        self.function[grid or _grid(arguments)](**arguments)


def _grid(arguments: Mapping[str, Any]) -> tuple[int, ...]:
    """That of Inductor's own kernels, `Grid1D` to `Grid3D`."""
    sizes = [(arguments.get(f"{axis}numel", 1), arguments.get(f"{axis.upper()}BLOCK", 1)) for axis in "xyz"]
    return tuple(triton.cdiv(size, block) for size, block in sizes)
