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
from mhc_compile.kernels.formulas import coefficients, packed
from mhc_compile.kernels.formulas.steps import complete, tensors_of
from mhc_compile.kernels.schedules.restoring import named
from mhc_compile.kernels.schedules.schedule import Schedule, Spec

Builder = Callable[..., Schedule]
SCHEDULES = 1024  # kept, by step, shapes and dtypes: lengths may differ from call to call


def gate(*args: Any) -> Any:
    """`packed.gate`."""
    return _run("gate", args)


def write(*args: Any) -> Any:
    """`packed.write`."""
    return _run("write", args)


def boundary(*args: Any) -> Any:
    """`packed.boundary`."""
    return _run("boundary", args)


def leave(*args: Any) -> Any:
    """`packed.leave`."""
    return _run("leave", args)


def single_gate(*args: Any) -> Any:
    """`packed.single_gate`."""
    return _run("single_gate", args)


def single_boundary(*args: Any) -> Any:
    """`packed.single_boundary`."""
    return _run("single_boundary", args)


def restore(X: Tensor, past: Sequence[Tensor], n: int, axis: int) -> Any:
    """`packed.restore`."""
    results = _results("restore", named(X, past), (n, axis))
    return packed.restore(X, past, n, axis) if results is None else results[0]


def gate_backward(*args: Any) -> Any:
    """`packed.gate_backward`."""
    return _run("gate_backward", args)


def write_backward(*args: Any) -> Any:
    """`packed.write_backward`."""
    return _run("write_backward", args)


def boundary_backward(*args: Any) -> Any:
    """`packed.boundary_backward`."""
    return _run("boundary_backward", args)


def leave_backward(*args: Any) -> Any:
    """`packed.leave_backward`."""
    return _run("leave_backward", args)


def single_gate_backward(*args: Any) -> Any:
    """`packed.single_gate_backward`."""
    return _run("single_gate_backward", args)


def single_boundary_backward(*args: Any) -> Any:
    """`packed.single_boundary_backward`."""
    return _run("single_boundary_backward", args)


def tangents(
    logits: Tensor, along: Tensor, gpre: Tensor, gpre_along: Tensor, gmix: Tensor, n: int, connection: str
) -> Any:
    """`coefficients.tangents`."""
    inputs = {"logits": logits, "along": along, "gpre": gpre, "gpre_along": gpre_along, "gmix": gmix}
    results = _results("tangents", inputs, (n, connection))
    if results is None:
        return coefficients.tangents(logits, along, gpre, gpre_along, gmix, n, connection)
    return results


def _run(step: str, args: tuple[Any, ...]) -> Tensor | tuple[Tensor, ...]:
    names = tensors_of(step)
    results = _results(step, dict(zip(names, args, strict=False)), complete(step, args)[len(names) :])
    if results is None:
        plain: Any = getattr(packed, step)
        return plain(*args)
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
