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

from mhc_compile.kernels.schedules.restoring import named
from mhc_compile.kernels.schedules.schedule import Launch, Schedule, Spec
from mhc_compile.kernels.triton import schedules
from mhc_compile.kernels.triton.tuning import fastest


def gate(X: Tensor, phi: Tensor, alpha: Tensor, bias: Tensor, n: int, axis: int) -> tuple[Tensor, Tensor, Tensor]:
    """See `packed.gate`."""
    return _run(schedules.gate, {"X": X, "phi": phi, "alpha": alpha, "bias": bias}, n, axis)


def write(X: Tensor, y: Tensor, mix: Tensor, n: int, axis: int) -> Tensor:
    """See `packed.write`."""
    (following,) = _run(schedules.write, {"X": X, "y": y, "mix": mix}, n, axis)
    return following


def boundary(
    X: Tensor, y: Tensor, mix: Tensor, phi: Tensor, alpha: Tensor, bias: Tensor, n: int, axis: int
) -> tuple[Tensor, Tensor, Tensor, Tensor]:
    """See `packed.boundary`."""
    tensors = {"X": X, "y": y, "mix": mix, "phi": phi, "alpha": alpha, "bias": bias}
    return _run(schedules.boundary, tensors, n, axis)


def leave(X: Tensor, y: Tensor, mix: Tensor, n: int, axis: int, scale: float) -> Tensor:
    """See `packed.leave`."""
    (out,) = _run(schedules.leave, {"X": X, "y": y, "mix": mix}, n, axis, scale)
    return out


def restore(X: Tensor, past: Sequence[Tensor], n: int, axis: int) -> Tensor:
    """See `packed.restore`."""
    (restored,) = _run(schedules.restore, named(X, past), n, axis)
    return restored


def gate_backward(
    gu: Tensor, gmix: Tensor, X: Tensor, phi: Tensor, alpha: Tensor, bias: Tensor, stat: Tensor, n: int, axis: int
) -> tuple[Tensor, Tensor, Tensor, Tensor]:
    """See `packed.gate_backward`."""
    tensors = {"gu": gu, "gmix": gmix, "X": X, "phi": phi, "alpha": alpha, "bias": bias, "stat": stat}
    return _run(schedules.gate_backward, tensors, n, axis)


def write_backward(g: Tensor, X: Tensor, y: Tensor, mix: Tensor, n: int, axis: int) -> tuple[Tensor, Tensor, Tensor]:
    """See `packed.write_backward`."""
    return _run(schedules.write_backward, {"g": g, "X": X, "y": y, "mix": mix}, n, axis)


def boundary_backward(
    g: Tensor,
    gu: Tensor,
    gmix: Tensor,
    X: Tensor,
    y: Tensor,
    mix: Tensor,
    phi: Tensor,
    alpha: Tensor,
    bias: Tensor,
    stat: Tensor,
    n: int,
    axis: int,
) -> tuple[Tensor, Tensor, Tensor, Tensor, Tensor, Tensor]:
    """See `packed.boundary_backward`."""
    tensors = {"g": g, "gu": gu, "gmix": gmix, "X": X, "y": y, "mix": mix}
    parameters = {"phi": phi, "alpha": alpha, "bias": bias, "stat": stat}
    return _run(schedules.boundary_backward, {**tensors, **parameters}, n, axis)


def leave_backward(
    g: Tensor, X: Tensor, y: Tensor, mix: Tensor, n: int, axis: int, scale: float
) -> tuple[Tensor, Tensor, Tensor]:
    """See `packed.leave_backward`."""
    return _run(schedules.leave_backward, {"g": g, "X": X, "y": y, "mix": mix}, n, axis, scale)


def run_schedule(schedule: Schedule, inputs: dict[str, Tensor], empty: Callable[..., Tensor] = torch.empty) -> Any:
    """Allocate the buffers with `empty(shape, dtype=, device=)`, launch the kernels, return the results as a tuple."""
    device = inputs["X"].device
    buffers = {name: empty(spec.shape, dtype=spec.dtype, device=device) for name, spec in schedule.buffers.items()}
    for launch in schedule.launches:
        _start(launch, {**inputs, **buffers})
    return tuple(buffers[name] for name in schedule.results)


def _run(step: Callable[..., Schedule], tensors: dict[str, Tensor], *constants: Any) -> Any:
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
