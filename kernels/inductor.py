"""Lower the fused steps in Inductor: their kernels, source included, become part of the generated program.

A step is written down once, as a `Schedule`. Here its buffers go into Inductor's memory plan and its launches into the
program, Triton on CUDA and C++ on the CPU. What no kernel covers falls back to the eager operator.
"""

from __future__ import annotations

import inspect
import logging
from collections.abc import Callable, Mapping, Sequence
from functools import cache
from typing import Any

import sympy
import torch

from mhc_compile import _torch_compat as compat
from mhc_compile.kernels import packed, recomputed
from mhc_compile.kernels.implementations import schedules, step_dtype, why_not_covered
from mhc_compile.kernels.inductor_cpp import cpp_call
from mhc_compile.kernels.restoring import named
from mhc_compile.kernels.schedule import Launch, Spec

STEPS = ("gate", "write", "boundary", "leave", "gate_backward", "write_backward", "boundary_backward", "leave_backward")
"""Names of the operators, and of the functions in `packed.py` and in the modules of schedules."""

_LOG = logging.getLogger("mhc_compile")


@cache
def install() -> None:
    """Register the lowerings with Inductor, once per process."""
    for step in STEPS:
        op = getattr(torch.ops.mhc, step).default
        compat.register_lowering(op, type_promotion_kind=None)(_lowering(step, op))
    for each in recomputed.STEPS:
        forward = getattr(torch.ops.mhc, f"{each.name}_recomputed").default
        backward = getattr(torch.ops.mhc, f"{each.name}_recomputed_backward").default
        plain = _lowering(each.name, getattr(torch.ops.mhc, each.name).default)
        compat.register_lowering(forward, type_promotion_kind=None)(lambda *args, plain=plain: plain(*args[:-2]))
        compat.register_lowering(backward, type_promotion_kind=None)(_lowering_that_restores(each, backward))


def _lowering(step: str, op: Any) -> Callable[..., Any]:
    names = list(inspect.signature(getattr(packed, step)).parameters)

    def lower(*args: Any) -> Any:
        given = dict(zip(names, args, strict=True))
        tensors = {name: value for name, value in given.items() if isinstance(value, compat.ir.TensorBox)}
        constants = {name: value for name, value in given.items() if name not in tensors}
        reason = _why_not(tensors, constants)
        if reason is not None:
            _log_once(step, reason)
            return compat.fallback_handler(op, add_to_fallback_set=False)(*args)
        return _emit(step, tensors, constants)

    return lower


def _lowering_that_restores(step: recomputed.Step, op: Any) -> Callable[..., Any]:
    """The lowering of the step's backward, on streams that are restored in front of it."""
    name = f"{step.name}_backward"
    then = _lowering(name, getattr(torch.ops.mhc, name).default)

    def lower(*args: Any) -> Any:
        start, past, *rest = args[step.gradients :]
        n, axis, *_ = rest[-len(step.constants) :]
        tensors, constants = named(start, past), {"n": n, "axis": axis}
        widest = max(past[::2], key=lambda y: y.get_dtype().itemsize)
        reason = _why_not({"X": start, "y": widest}, constants)
        if reason is not None:
            _log_once(f"{name} with recomputed streams", reason)
            return compat.fallback_handler(op, add_to_fallback_set=False)(*args)
        return then(*args[: step.gradients], _emit("restore", tensors, constants), *rest)

    return lower


def _why_not(tensors: Mapping[str, Any], constants: Mapping[str, Any]) -> str | None:
    X = tensors["X"]
    sizes = (X.get_size()[0], X.get_size()[constants["axis"] + 1])
    if not all(isinstance(size, int) or size.is_Integer for size in sizes):
        return "the number of channels is not fixed"
    if any(size == 0 for size in X.get_size()):
        return "there are no tokens"
    if compat.virtualized.V.graph.cpp_wrapper:
        return "the C++ wrapper of AOTInductor calls the operator"
    dtype = step_dtype(X.get_dtype(), tensors["y"].get_dtype() if "y" in tensors else None)
    return why_not_covered(X.get_device().type, dtype, constants["n"])


@cache
def _log_once(step: str, reason: str) -> None:
    _LOG.info("mhc::%s is not lowered and runs as an operator: %s", step, reason)


def _emit(step: str, tensors: Mapping[str, Any], constants: Mapping[str, Any]) -> Any:
    inputs = {name: compat.ir.ExternKernel.require_contiguous(value) for name, value in tensors.items()}
    device = inputs["X"].get_device()
    specs = {name: Spec(_sizes(value.get_size()), value.get_dtype()) for name, value in inputs.items()}
    schedule = getattr(schedules(device.type), step)(specs, **constants)
    buffers = {name: _empty(spec, device) for name, spec in schedule.buffers.items()}
    for launch in schedule.launches:
        named = {parameter: {**inputs, **buffers}[name] for parameter, name in launch.tensors.items()}
        if device.type == "cpu":
            cpp_call(launch, named, [name for name, tensor in launch.tensors.items() if tensor in buffers])
        else:
            _triton_call(launch, named)
    results = [buffers[name] for name in schedule.results]
    return results[0] if len(results) == 1 and not step.endswith("_backward") else results


def _sizes(sizes: Sequence[Any]) -> tuple[Any, ...]:
    return tuple(int(size) if not isinstance(size, int) and size.is_Integer else size for size in sizes)


def _empty(spec: Spec, device: torch.device) -> Any:
    empty = compat.lowerings[torch.ops.aten.empty.memory_format](list(spec.shape), dtype=spec.dtype, device=device)
    empty.realize()
    return empty


def _triton_call(launch: Launch, named: Mapping[str, Any]) -> None:
    compat.ir.UserDefinedTritonKernel(
        kernel_idx=compat.kernel_side_table.add_kernel(launch.kernel),
        grid=[(*map(_whole, launch.grid), *(1,) * (3 - len(launch.grid)))],
        tma_descriptor_metadata={},
        kernel_args={**named, **launch.sizes, **launch.constants, **launch.options},
        launch_kwargs=tuple(launch.options),
    )


def _whole(size: Any) -> Any:
    """A size as whole numbers only: sympy makes of `size // 16` the floor of fractions, computed with floats."""
    if isinstance(size, int):
        return size
    return size.replace(sympy.floor, lambda value: compat.FloorDiv(*value.together().as_numer_denom()))
