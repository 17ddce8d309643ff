"""The fused steps on CPU tensors, without a compiler pass: the functions of `packed.py`, through C++.

Where the kernels cannot be compiled, the plain functions run instead, and a warning says why.
"""

from __future__ import annotations

import subprocess
import warnings
from collections.abc import Callable, Mapping, Sequence
from functools import cache, lru_cache
from typing import Any

import torch
from torch import Tensor

from mhc_compile.kernels.cpu import schedules as cpu_schedules
from mhc_compile.kernels.cpu.kernel import CppKernel, compiled
from mhc_compile.kernels.formulas import packed
from mhc_compile.kernels.schedules.restoring import named
from mhc_compile.kernels.schedules.schedule import Schedule, Spec

Builder = Callable[..., Schedule]
SCHEDULES = 1024  # kept, by step, shapes and dtypes: lengths may differ from call to call


def gate(X: Tensor, phi: Tensor, alpha: Tensor, bias: Tensor, n: int, axis: int) -> Any:
    """`packed.gate`."""
    return _run("gate", {"X": X, "phi": phi, "alpha": alpha, "bias": bias}, n, axis)


def write(X: Tensor, y: Tensor, mix: Tensor, n: int, axis: int) -> Any:
    """`packed.write`."""
    return _run("write", {"X": X, "y": y, "mix": mix}, n, axis)


def boundary(X: Tensor, y: Tensor, mix: Tensor, phi: Tensor, alpha: Tensor, bias: Tensor, n: int, axis: int) -> Any:
    """`packed.boundary`."""
    return _run("boundary", {"X": X, "y": y, "mix": mix, "phi": phi, "alpha": alpha, "bias": bias}, n, axis)


def leave(X: Tensor, y: Tensor, mix: Tensor, n: int, axis: int, scale: float) -> Any:
    """`packed.leave`."""
    return _run("leave", {"X": X, "y": y, "mix": mix}, n, axis, scale)


def restore(X: Tensor, past: Sequence[Tensor], n: int, axis: int) -> Any:
    """`packed.restore`."""
    results = _results("restore", named(X, past), (n, axis))
    return packed.restore(X, past, n, axis) if results is None else results[0]


def gate_backward(
    gu: Tensor, gmix: Tensor, X: Tensor, phi: Tensor, alpha: Tensor, bias: Tensor, stat: Tensor, n: int, axis: int
) -> Any:
    """`packed.gate_backward`."""
    given = {"gu": gu, "gmix": gmix, "X": X, "phi": phi, "alpha": alpha, "bias": bias, "stat": stat}
    return _run("gate_backward", given, n, axis)


def write_backward(g: Tensor, X: Tensor, y: Tensor, mix: Tensor, n: int, axis: int) -> Any:
    """`packed.write_backward`."""
    return _run("write_backward", {"g": g, "X": X, "y": y, "mix": mix}, n, axis)


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
) -> Any:
    """`packed.boundary_backward`."""
    given = {"g": g, "gu": gu, "gmix": gmix, "X": X, "y": y, "mix": mix}
    given |= {"phi": phi, "alpha": alpha, "bias": bias, "stat": stat}
    return _run("boundary_backward", given, n, axis)


def leave_backward(g: Tensor, X: Tensor, y: Tensor, mix: Tensor, n: int, axis: int, scale: float) -> Any:
    """`packed.leave_backward`."""
    return _run("leave_backward", {"g": g, "X": X, "y": y, "mix": mix}, n, axis, scale)


def _run(step: str, inputs: Mapping[str, Tensor], *constants: Any) -> Tensor | tuple[Tensor, ...]:
    results = _results(step, inputs, constants)
    if results is None:
        plain: Any = getattr(packed, step)
        return plain(*inputs.values(), *constants)
    return results if len(results) > 1 else results[0]


def _results(step: str, inputs: Mapping[str, Tensor], constants: tuple[Any, ...]) -> tuple[Tensor, ...] | None:
    """What the kernels of a step compute; None if they cannot be compiled."""
    tensors = {name: tensor.contiguous() for name, tensor in inputs.items()}
    specs = tuple((name, tuple(t.shape), t.dtype) for name, t in tensors.items())
    schedule = _schedule(step, specs, constants, torch.get_num_threads())
    if not all(_usable(launch.kernel) for launch in schedule.launches):
        return None
    tensors |= {name: torch.empty(spec.shape, dtype=spec.dtype) for name, spec in schedule.buffers.items()}
    for launch in schedule.launches:
        addresses = (tensors[name].data_ptr() for name in launch.tensors.values())
        compiled(launch.kernel)(*addresses, *launch.sizes.values())
    return tuple(tensors[name] for name in schedule.results)


@lru_cache(maxsize=SCHEDULES)
def _schedule(step: str, specs: tuple[Any, ...], constants: tuple[Any, ...], threads: int) -> Schedule:
    """Cached by all that it depends on; `threads` is what the builder reads from PyTorch."""
    build: Builder = getattr(cpu_schedules, step)
    return build({name: Spec(shape, dtype) for name, shape, dtype in specs}, *constants)


@cache
def _usable(kernel: CppKernel) -> bool:
    try:
        compiled(kernel)
    except (OSError, subprocess.CalledProcessError) as error:
        reason = getattr(error, "stderr", None) or error
        warnings.warn(f"the mixing runs in plain PyTorch, several times slower: {reason}", stacklevel=2)
        return False
    return True
