"""The fused steps on a GPU, eagerly: the functions of `packed.py`, run by their schedules.

Tensors may have any strides. On a real device the costliest kernel of a step takes the tiles that `tuning.py`
measured to be the fastest; while a CUDA graph is captured, and under the interpreter, it takes the default. A batch
without tokens launches no kernel over tokens: the gradients of parameters are zeros.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any

import torch
from torch import Tensor

from mhc_compile.kernels.formulas.steps import split
from mhc_compile.kernels.schedules.restoring import named
from mhc_compile.kernels.schedules.schedule import Launch, Schedule, Spec
from mhc_compile.kernels.triton import schedules
from mhc_compile.kernels.triton.tuning import fastest


def gate(*args: Any) -> Any:
    """See `packed.gate`."""
    return _run("gate", args)


def write(*args: Any) -> Any:
    """See `packed.write`."""
    return _run("write", args)


def boundary(*args: Any) -> Any:
    """See `packed.boundary`."""
    return _run("boundary", args)


def leave(*args: Any) -> Any:
    """See `packed.leave`."""
    return _run("leave", args)


def single_gate(*args: Any) -> Any:
    """See `packed.single_gate`."""
    return _run("single_gate", args)


def single_boundary(*args: Any) -> Any:
    """See `packed.single_boundary`."""
    return _run("single_boundary", args)


def restore(X: Tensor, past: Sequence[Tensor], n: int, axis: int) -> Tensor:
    """See `packed.restore`."""
    (restored,) = _scheduled(schedules.restore, named(X, past), n, axis)
    return restored


def gate_backward(*args: Any) -> Any:
    """See `packed.gate_backward`."""
    return _run("gate_backward", args)


def write_backward(*args: Any) -> Any:
    """See `packed.write_backward`."""
    return _run("write_backward", args)


def boundary_backward(*args: Any) -> Any:
    """See `packed.boundary_backward`."""
    return _run("boundary_backward", args)


def leave_backward(*args: Any) -> Any:
    """See `packed.leave_backward`."""
    return _run("leave_backward", args)


def single_gate_backward(*args: Any) -> Any:
    """See `packed.single_gate_backward`."""
    return _run("single_gate_backward", args)


def single_boundary_backward(*args: Any) -> Any:
    """See `packed.single_boundary_backward`."""
    return _run("single_boundary_backward", args)


def run_schedule(schedule: Schedule, inputs: dict[str, Tensor], empty: Callable[..., Tensor] = torch.empty) -> Any:
    """Allocate the buffers with `empty(shape, dtype=, device=)`, launch the kernels, return the results as a tuple."""
    device = inputs["X"].device
    buffers = {name: empty(spec.shape, dtype=spec.dtype, device=device) for name, spec in schedule.buffers.items()}
    for launch in schedule.launches:
        _start(launch, {**inputs, **buffers})
    return tuple(buffers[name] for name in schedule.results)


def _run(step: str, args: tuple[Any, ...]) -> Any:
    tensors, constants = split(step, args)
    results = _scheduled(getattr(schedules, step), tensors, *constants.values())
    return results if len(results) > 1 else results[0]


def _scheduled(step: Callable[..., Schedule], tensors: dict[str, Tensor], *constants: Any) -> Any:
    inputs = {name: tensor.contiguous() for name, tensor in tensors.items()}
    specs = {name: Spec(tuple(t.shape), t.dtype) for name, t in inputs.items()}
    if not inputs["X"].is_cuda or torch.cuda.is_current_stream_capturing():
        return run_schedule(step(specs, *constants), inputs)
    with torch.cuda.device(inputs["X"].device):
        tiles = fastest(step, specs, constants, lambda schedule: run_schedule(schedule, inputs))
        return run_schedule(step(specs, *constants, tiles), inputs)


def _start(launch: Launch, tensors: dict[str, Tensor]) -> None:
    if 0 in launch.grid:
        return
    arguments = {parameter: tensors[name] for parameter, name in launch.tensors.items()}
    launch.kernel[launch.grid](**arguments, **launch.sizes, **launch.constants, **launch.options)
