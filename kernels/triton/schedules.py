"""The fused steps on a GPU as data: buffers and Triton launches for each function of `packed.py`.

Every function takes the `Spec` of each input by the parameter names of `packed.py`, then n, axis (and scale). The
number of tokens may be a symbol of a compiler, so it is only added, multiplied and divided; n and the channels are
integers. `tiles` are those of the kernel that costs the most, by default what `tiles.py` says.
"""

from __future__ import annotations

import torch

from mhc_compile.kernels.formulas.packed import SINGLE_PASS
from mhc_compile.kernels.schedules.restoring import passes
from mhc_compile.kernels.schedules.schedule import Schedule, Spec
from mhc_compile.kernels.triton import backward, forward, logits, parameters, single
from mhc_compile.kernels.triton import leave as leave_kernels
from mhc_compile.kernels.triton.step import Step
from mhc_compile.kernels.triton.tiles import Inputs, Tiles

STREAMS = range(2, 9)
DTYPES = (torch.float32, torch.bfloat16, torch.float16)


PROJECTIONS = ("sinkhorn", "permutations", "kronecker", "circulant", "identity", "unconstrained")


def covers(dtype: torch.dtype, n: int, projection: str | None = None) -> str | None:
    """None if there are kernels for n streams of this dtype with this projection, else the reason why not.

    `projection` is None where a step computes no coefficients.
    """
    if projection is not None and projection not in PROJECTIONS:
        return f"the Triton kernels do not have the projection {projection}"
    if n not in STREAMS:
        return f"the Triton kernels cover 2 to 8 streams, not {n}"
    if dtype not in DTYPES:
        return f"the Triton kernels cover fp32, bf16 and fp16, not {dtype}"
    return None


def gate(inputs: Inputs, n: int, axis: int, connection: str = "mhc", tiles: Tiles | None = None) -> Schedule:
    """`packed.gate`."""
    step = Step.of("gate", inputs, n, axis, tiles, connection)
    X = inputs["X"]
    buffers = {
        "u": Spec(X.shape[1:], X.dtype),
        "mix_out": step.table(n + n * n),
        "stat": step.table(step.K + step.statistics),
    }
    names = (*inputs, "mix_out", "stat")
    first = step.scan(forward.gate_coefficients_kernel, names, step.gated, EPS=step.eps)
    return Schedule(buffers, (first, step.read("X", step.m)), tuple(buffers))


def write(inputs: Inputs, n: int, axis: int, tiles: Tiles | None = None) -> Schedule:
    """`packed.write`."""
    step = Step.of("write", inputs, n, axis, tiles)
    buffers = {"following": Spec((n, *inputs["y"].shape), step.dtype)}
    return Schedule(buffers, (step.pointwise(forward.write_kernel, (*inputs, *buffers)),), tuple(buffers))


def boundary(inputs: Inputs, n: int, axis: int, connection: str = "mhc", tiles: Tiles | None = None) -> Schedule:
    """`packed.boundary`."""
    step = Step.of("boundary", inputs, n, axis, tiles, connection)
    shape = inputs["y"].shape
    buffers = {
        "following": Spec((n, *shape), step.dtype),
        "u": Spec(shape, step.dtype),
        "mix_out": step.table(n + n * n),
        "stat": step.table(step.K + step.statistics),
    }
    names = (*inputs, "following", "mix_out", "stat")
    first = step.scan(forward.boundary_coefficients_kernel, names, step.gated, EPS=step.eps)
    return Schedule(buffers, (first, step.read("following", n)), tuple(buffers))


def single_gate(
    inputs: Inputs, n: int, axis: int, connection: str = SINGLE_PASS, tiles: Tiles | None = None
) -> Schedule:
    """`packed.single_gate`."""
    step = Step.of("single_gate", inputs, n, axis, tiles, connection)
    buffers = {"pre_out": step.table(n), "mix_out": step.table(n + n * n), "stat": step.table(step.K + step.statistics)}
    launch = step.scan(single.single_gate_kernel, (*inputs, *buffers), step.gated, EPS=step.eps)
    return Schedule(buffers, (launch,), tuple(buffers))


def single_boundary(
    inputs: Inputs, n: int, axis: int, connection: str = SINGLE_PASS, tiles: Tiles | None = None
) -> Schedule:
    """`packed.single_boundary`."""
    step = Step.of("single_boundary", inputs, n, axis, tiles, connection)
    shape = inputs["y"].shape
    buffers = {
        "following": Spec((n, *shape), step.dtype),
        "u": Spec(shape, step.dtype),
        "pre_out": step.table(n),
        "mix_out": step.table(n + n * n),
        "stat": step.table(step.K + step.statistics),
    }
    launch = step.scan(single.single_boundary_kernel, (*inputs, *buffers), step.gated, EPS=step.eps)
    return Schedule(buffers, (launch,), tuple(buffers))


def leave(inputs: Inputs, n: int, axis: int, scale: float, tiles: Tiles | None = None) -> Schedule:
    """`packed.leave`."""
    step = Step.of("leave", inputs, n, axis, tiles)
    buffers = {"out": Spec(inputs["y"].shape, step.dtype)}
    launch = step.pointwise(leave_kernels.leave_kernel, (*inputs, *buffers), SCALE=scale)
    return Schedule(buffers, (launch,), tuple(buffers))


def restore(inputs: Inputs, n: int, axis: int, tiles: Tiles | None = None) -> Schedule:
    """`packed.restore`, its inputs by the names of `restoring.named`."""
    buffers: dict[str, Spec] = {}
    launches = []
    for each in passes(inputs, n):
        step = Step.of("restore", each.specs({**inputs, **buffers}), n, axis, tiles)
        tensors = {**each.tensors(), "restored": each.result}
        launches.append(step.pointwise(forward.restore_kernel, tensors, COUNT=len(each.ys)))
        buffers[each.result] = each.spec
    return Schedule(buffers, tuple(launches), (each.result,))


def gate_backward(inputs: Inputs, n: int, axis: int, connection: str = "mhc", tiles: Tiles | None = None) -> Schedule:
    """`packed.gate_backward`."""
    step = Step.of("gate_backward", inputs, n, axis, tiles, connection)
    results = {"grad_X": inputs["X"], **_parameter_gradients(inputs)}
    first = step.logits(logits.gate_logits_kernel, ("gu", "gmix", "X", "alpha", "bias", "stat"))
    names = ("gu", "X", "phi", "alpha", "bias", "stat", "glogits", "grad_X")
    streams = step.scan(backward.gate_backward_kernel, names, {**step.projecting, **step.read_constants})
    rest = step.parameters(parameters.gate_products_kernel, ("X", "alpha", "stat"), step.m)
    return Schedule({**results, **step.scratch(step.m)}, (first, streams, *rest), tuple(results))


def write_backward(inputs: Inputs, n: int, axis: int, tiles: Tiles | None = None) -> Schedule:
    """`packed.write_backward`."""
    step = Step.of("write_backward", inputs, n, axis, tiles)
    results = _write_gradients(inputs)
    launch = step.scan(backward.write_backward_kernel, (*inputs, *results), {"VEC": step.vector})
    return Schedule(results, (launch,), tuple(results))


def boundary_backward(
    inputs: Inputs, n: int, axis: int, connection: str = "mhc", tiles: Tiles | None = None
) -> Schedule:
    """`packed.boundary_backward`."""
    step = Step.of("boundary_backward", inputs, n, axis, tiles, connection)
    written = _write_gradients(inputs)
    results = {**written, **_parameter_gradients(inputs)}
    read = ("X", "y", "mix", "alpha", "bias", "stat")
    first = step.logits(logits.boundary_logits_kernel, ("gu", "gmix", *read))
    names = ("g", "gu", *read, "phi", "glogits", *written)
    streams = step.scan(
        backward.boundary_backward_kernel, names, {**step.projecting, **step.read_constants, "VEC": step.vector}
    )
    rest = step.parameters(parameters.boundary_products_kernel, ("X", "y", "mix", "alpha", "stat"), n)
    return Schedule({**results, **step.scratch(n)}, (first, streams, *rest), tuple(results))


def single_gate_backward(
    inputs: Inputs, n: int, axis: int, connection: str = SINGLE_PASS, tiles: Tiles | None = None
) -> Schedule:
    """`packed.single_gate_backward`."""
    step = Step.of("single_gate_backward", inputs, n, axis, tiles, connection)
    results = {"grad_X": inputs["X"], **_parameter_gradients(inputs)}
    names = ("gpre", "gmix", "X", "phi", "alpha", "bias", "stat", "glogits", "grad_X")
    streams = step.scan(single.single_gate_backward_kernel, names, {**step.projecting, **step.matrices})
    rest = step.parameters(parameters.gate_products_kernel, ("X", "alpha", "stat"), step.m)
    return Schedule({**results, **step.scratch(step.m)}, (streams, *rest), tuple(results))


def single_boundary_backward(
    inputs: Inputs, n: int, axis: int, connection: str = SINGLE_PASS, tiles: Tiles | None = None
) -> Schedule:
    """`packed.single_boundary_backward`."""
    step = Step.of("single_boundary_backward", inputs, n, axis, tiles, connection)
    written = {**_write_gradients(inputs), "grad_pre": inputs["pre"]}
    results = {**written, **_parameter_gradients(inputs)}
    names = ("g", "gu", "gpre", "gmix", "X", "y", "mix", "pre", "phi", "alpha", "bias", "stat", "glogits", *written)
    constants = {**step.projecting, **step.matrices, "VEC": step.vector}
    streams = step.scan(single.single_boundary_backward_kernel, names, constants)
    rest = step.parameters(parameters.boundary_products_kernel, ("X", "y", "mix", "alpha", "stat"), n)
    return Schedule({**results, **step.scratch(n)}, (streams, *rest), tuple(results))


def leave_backward(inputs: Inputs, n: int, axis: int, scale: float, tiles: Tiles | None = None) -> Schedule:
    """`packed.leave_backward`."""
    step = Step.of("leave_backward", inputs, n, axis, tiles)
    results = _write_gradients(inputs)
    launch = step.scan(backward.leave_backward_kernel, (*inputs, *results), {"VEC": step.vector}, SCALE=scale)
    return Schedule(results, (launch,), tuple(results))


def _write_gradients(inputs: Inputs) -> dict[str, Spec]:
    return {f"grad_{name}": inputs[name] for name in ("X", "y", "mix")}


def _parameter_gradients(inputs: Inputs) -> dict[str, Spec]:
    return {f"grad_{name}": inputs[name] for name in ("phi", "alpha", "bias")}
