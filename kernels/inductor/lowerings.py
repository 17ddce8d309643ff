"""Lower the fused steps in Inductor: their kernels, source included, become part of the generated program.

A step is written down once, as a `Schedule`. Here its buffers go into Inductor's memory plan and its launches into the
program, Triton on CUDA and C++ on the CPU. What no kernel covers falls back to the eager operator.
"""

from __future__ import annotations

import logging
from collections.abc import Callable, Mapping, Sequence
from functools import cache, partial
from typing import Any

import sympy
import torch

from mhc_compile import _torch_compat as compat
from mhc_compile.errors import PackageNeedsPythonError
from mhc_compile.kernels.formulas.packed import STEPS
from mhc_compile.kernels.formulas.steps import split
from mhc_compile.kernels.inductor.cpp_call import cpp_call
from mhc_compile.kernels.operators import recomputed
from mhc_compile.kernels.operators.implementations import schedules, step_dtype, why_not_covered
from mhc_compile.kernels.schedules.restoring import named
from mhc_compile.kernels.schedules.schedule import Launch, Spec

_LOG = logging.getLogger("mhc_compile")


@cache
def install() -> None:
    """Register the lowerings with Inductor, once per process."""
    for step in STEPS:
        op = getattr(torch.ops.mhc, step).default
        compat.register_lowering(op, type_promotion_kind=None)(_lowering(step, op))
    for name in ("sinkhorn", "sinkhorn_backward"):
        op = getattr(torch.ops.mhc, name).default
        compat.register_lowering(op, type_promotion_kind=None)(partial(_call_operator, op, "it has no kernels"))
    for restoring in recomputed.STEPS:
        forward = getattr(torch.ops.mhc, f"{restoring.name}_recomputed").default
        backward = getattr(torch.ops.mhc, f"{restoring.name}_recomputed_backward").default
        plain = _lowering(restoring.name, getattr(torch.ops.mhc, restoring.name).default)
        compat.register_lowering(forward, type_promotion_kind=None)(lambda *args, plain=plain: plain(*args[:-2]))
        compat.register_lowering(backward, type_promotion_kind=None)(_lowering_that_restores(restoring, backward))


def _lowering(step: str, op: Any) -> Callable[..., Any]:
    def lower(*args: Any) -> Any:
        tensors, constants = split(step, args)
        reason = _why_not(tensors, constants)
        if reason is not None:
            return _call_operator(op, reason, *args)
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
    device = X.get_device().type
    if compat.virtualized.V.graph.cpp_wrapper and device != "cpu":
        return "the C++ wrapper calls the operator"
    dtype = step_dtype(X.get_dtype(), tensors["y"].get_dtype() if "y" in tensors else None)
    return why_not_covered(device, dtype, constants["n"], constants.get("connection"))


def _call_operator(op: Any, reason: str, *args: Any) -> Any:
    """A call of the operator in the generated program, which then needs this package."""
    if compat.virtualized.V.graph.aot_mode:
        raise PackageNeedsPythonError(
            f"a package of AOTInductor would call {op.name()} in Python, because {reason}: "
            "write aoti_compile_and_package(mhc_compile.export.decompose(exported_program), ...)"
        )
    _log_once(op.name(), reason)
    return compat.fallback_handler(op, add_to_fallback_set=False)(*args)


@cache
def _log_once(op: str, reason: str) -> None:
    _LOG.info("%s is not lowered and runs as an operator: %s", op, reason)


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
