"""The fused steps on the CPU as schedules: one C++ kernel each, compiled for n, m and the dtypes only.

`inputs` maps the tensor parameters of the function in `packed.py` to their specs. Sizes of a launch are `outer`,
`channels` and `inner` of one stream (`layout.Layout`) and `parts`, the number of threads: sums over tokens are kept
per part and added up in order, so results depend on nothing but the inputs and that number.
"""

from __future__ import annotations

from collections.abc import Mapping

import torch

from mhc_compile.kernels.cpu.source import C_TYPES, MATRICES, constants, kernel_of, parameters, result_dtype
from mhc_compile.kernels.formulas import reference
from mhc_compile.kernels.formulas.layout import layout_of
from mhc_compile.kernels.formulas.lookup import manifold_of, sizes_of
from mhc_compile.kernels.formulas.packed import SINGLE_PASS
from mhc_compile.kernels.formulas.steps import tensors_of
from mhc_compile.kernels.schedules.restoring import passes
from mhc_compile.kernels.schedules.schedule import Launch, Schedule, Size, Spec

Specs = Mapping[str, Spec]

STREAMS = range(2, 9)


def covers(dtype: torch.dtype, n: int, projection: str | None = None) -> str | None:
    """Why these kernels do not cover n streams of this dtype with this projection; None if they do.

    `projection` is None where a step computes no coefficients.
    """
    if projection is not None and projection not in MATRICES:
        return f"the C++ kernels do not have the projection {projection}"
    if dtype not in C_TYPES:
        return f"the C++ kernels do not cover {dtype}"
    if n not in STREAMS:
        return f"the C++ kernels cover {STREAMS.start} to {STREAMS.stop - 1} streams, not {n}"
    return None


def gate(inputs: Specs, n: int, axis: int, connection: str = "mhc") -> Schedule:
    """`packed.gate`."""
    X = inputs["X"]
    results = {"u": Spec(X.shape[1:], X.dtype), **_gate_results(X, n, axis, connection)}
    return _forward("gate", inputs, results, n, axis, connection)


def write(inputs: Specs, n: int, axis: int) -> Schedule:
    """`packed.write`."""
    return _forward("write", inputs, {"following": _following(inputs, n)}, n, axis, None)


def boundary(inputs: Specs, n: int, axis: int, connection: str = "mhc") -> Schedule:
    """`packed.boundary`."""
    following = _following(inputs, n)
    u = Spec(following.shape[1:], following.dtype)
    results = {"following": following, "u": u, **_gate_results(following, n, axis, connection)}
    return _forward("boundary", inputs, results, n, axis, connection)


def single_gate(inputs: Specs, n: int, axis: int, connection: str = SINGLE_PASS) -> Schedule:
    """`packed.single_gate`."""
    results = _gate_results(inputs["X"], n, axis, connection, single=True)
    return _forward("single_gate", inputs, results, n, axis, connection)


def single_boundary(inputs: Specs, n: int, axis: int, connection: str = SINGLE_PASS) -> Schedule:
    """`packed.single_boundary`."""
    following = _following(inputs, n)
    u = Spec(following.shape[1:], following.dtype)
    results = {"following": following, "u": u, **_gate_results(following, n, axis, connection, single=True)}
    return _forward("single_boundary", inputs, results, n, axis, connection)


def leave(inputs: Specs, n: int, axis: int, scale: float) -> Schedule:
    """`packed.leave`."""
    out = {"out": Spec(inputs["y"].shape, result_dtype(inputs))}
    return _schedule("leave", f"mhc::leave<S>(X, y, mix, out, {_SHAPE}, {scale!r});", inputs, out, {}, n, axis, None)


def restore(inputs: Specs, n: int, axis: int) -> Schedule:
    """`packed.restore`, its inputs by the names of `restoring.named`; one kernel for any number of writes."""
    buffers: dict[str, Spec] = {}
    launches = []
    for each in passes(inputs, n):
        specs = {**inputs, **buffers}
        tensors = each.tensors()
        read, written = {p: specs[name] for p, name in tensors.items()}, {"restored": each.spec}
        sizes = {**_sizes(inputs["X"], axis), "count": len(each.ys)}
        body = f"mhc::restore<S>({', '.join(tensors)}, restored, {_SHAPE}, count);"
        kernel = kernel_of(
            "mhc_restore", body, parameters(read, written, sizes), constants(each.specs(specs), n, axis, None)
        )
        launches.append(Launch(kernel, {**tensors, "restored": each.result}, sizes))
        buffers[each.result] = each.spec
    return Schedule(buffers, tuple(launches), (each.result,))


def gate_backward(inputs: Specs, n: int, axis: int, connection: str = "mhc") -> Schedule:
    """`packed.gate_backward`."""
    return _backward("gate", inputs, n, axis, connection)


def write_backward(inputs: Specs, n: int, axis: int) -> Schedule:
    """`packed.write_backward`."""
    return _backward("write", inputs, n, axis, None)


def boundary_backward(inputs: Specs, n: int, axis: int, connection: str = "mhc") -> Schedule:
    """`packed.boundary_backward`."""
    return _backward("boundary", inputs, n, axis, connection)


def single_gate_backward(inputs: Specs, n: int, axis: int, connection: str = SINGLE_PASS) -> Schedule:
    """`packed.single_gate_backward`."""
    return _backward("single_gate", inputs, n, axis, connection)


def single_boundary_backward(inputs: Specs, n: int, axis: int, connection: str = SINGLE_PASS) -> Schedule:
    """`packed.single_boundary_backward`."""
    return _backward("single_boundary", inputs, n, axis, connection)


def leave_backward(inputs: Specs, n: int, axis: int, scale: float) -> Schedule:
    """`packed.leave_backward`."""
    results = {f"grad_{name}": inputs[name] for name in ("X", "y", "mix")}
    body = f"mhc::leave_backward<S>(g, X, y, mix, grad_X, grad_y, grad_mix, {_SHAPE}, {scale!r});"
    return _schedule("leave_backward", body, inputs, results, {}, n, axis, None)


def tangents(inputs: Specs, n: int, connection: str) -> Schedule:
    """`coefficients.tangents`."""
    logits, gmix, pre = inputs["logits"], inputs["gmix"], inputs["gpre"]
    results = {"pre": pre, "pre_along": pre, "mix_along": gmix, "back": logits, "back_along": logits}
    sizes = {"tokens": logits.shape[0], "parts": torch.get_num_threads()}
    compiled_for = constants({"X": Spec((n, 1), logits.dtype)}, n, 0, connection)
    body = f"mhc::tangents(mhc::Tangents<S>{{{', '.join((*inputs, *results))}}}, tokens, parts);"
    kernel = kernel_of("mhc_tangents", body, parameters(inputs, results, sizes), compiled_for)
    launch = Launch(kernel, tensors={key: key for key in (*inputs, *results)}, sizes=sizes)
    return Schedule(results, (launch,), tuple(results))


_SHAPE = "mhc::Shape{outer, channels, inner}, parts"
_STEPS = {"gate": "false, true", "write": "true, false", "boundary": "true, true"}  # WRITES, GATES
_FORWARD = (
    "X",
    "y",
    "mix",
    "pre",
    "phi",
    "alpha",
    "bias",
    "following",
    "u",
    "pre_out",
    "mix_out",
    "stat",
    "packed_phi",
)
_BACKWARD = ("g", "gu", "gpre", "gmix", "X", "y", "mix", "pre", "phi", "alpha", "bias", "stat",
             "grad_X", "grad_y", "grad_mix", "grad_pre", "grad_phi", "grad_alpha", "grad_bias",
             "packed_phi", "phi_parts", "sums_parts")  # fmt: skip


def _flags(step: str) -> str:
    return _STEPS[step.removeprefix("single_")]


def _forward(step: str, inputs: Specs, results: Specs, n: int, axis: int, connection: str | None) -> Schedule:
    streams = n if "y" in inputs else inputs["X"].shape[0]
    scratch = {} if connection is None else {"packed_phi": _packed_phi(inputs, streams, n, axis, connection)}
    passed = (name if name in {**inputs, **results, **scratch} else "nullptr" for name in _FORWARD)
    body = f"mhc::forward<S, {_flags(step)}>({', '.join(passed)}, {_SHAPE});"
    return _schedule(step, body, inputs, results, scratch, n, axis, connection)


def _backward(step: str, inputs: Specs, n: int, axis: int, connection: str | None) -> Schedule:
    results = {f"grad_{name}": inputs[name] for name in tensors_of(step)}
    streams = n if "y" in inputs else inputs["X"].shape[0]
    scratch: dict[str, Spec] = {}
    if connection is not None:
        scratch["packed_phi"] = packed = _packed_phi(inputs, streams, n, axis, connection)
        scratch["phi_parts"] = Spec((torch.get_num_threads(), *packed.shape), packed.dtype)
        scratch["sums_parts"] = Spec((torch.get_num_threads(), 3 + manifold_of(connection).columns(n)), torch.float64)
    passed = (name if name in {**inputs, **results, **scratch} else "nullptr" for name in _BACKWARD)
    body = f"mhc::backward<S, {_flags(step)}>({', '.join(passed)}, {_SHAPE});"
    return _schedule(f"{step}_backward", body, inputs, results, scratch, n, axis, connection)


def _schedule(
    name: str, body: str, inputs: Specs, results: Specs, scratch: Specs, n: int, axis: int, connection: str | None
) -> Schedule:
    """The body in a function that takes all inputs and buffers by name, and the sizes."""
    buffers, sizes = {**results, **scratch}, _sizes(inputs["X"], axis)
    single = name.startswith("single_")
    compiled_for = constants(inputs, n, axis, connection, single=single)
    kernel = kernel_of(f"mhc_{name}", body, parameters(inputs, buffers, sizes), compiled_for)
    launch = Launch(kernel, tensors={key: key for key in (*inputs, *buffers)}, sizes=sizes)
    return Schedule(buffers, launches=(launch,), results=tuple(results))


def _sizes(X: Spec, axis: int) -> dict[str, Size]:
    layout = layout_of(X.shape[1:], axis)
    return {
        "outer": layout.outer,
        "channels": layout.channels,
        "inner": layout.inner,
        "parts": torch.get_num_threads(),
    }


def _following(inputs: Specs, n: int) -> Spec:
    return Spec((n, *inputs["y"].shape), result_dtype(inputs))


def _gate_results(X: Spec, n: int, axis: int, connection: str, *, single: bool = False) -> dict[str, Spec]:
    dtype, tokens = reference.coefficient_dtype(X.dtype), layout_of(X.shape[1:], axis).tokens
    pre = {"pre_out": Spec((tokens, n), dtype)} if single else {}
    stat = Spec((tokens, sizes_of(connection, n)[2]), dtype)
    return {**pre, "mix_out": Spec((tokens, n * n + n), dtype), "stat": stat}


def _packed_phi(inputs: Specs, streams: Size, n: int, axis: int, connection: str) -> Spec:
    """Scratch for phi in the order in which the kernel reads it; `Sizes` in products.h has no larger numbers."""
    chunk, columns = (256 if n <= 4 else 128), -(-manifold_of(connection).columns(n) // 16) * 16
    channels = -(-inputs["X"].shape[axis + 1] // chunk) * chunk
    return Spec((channels * streams * columns,), reference.coefficient_dtype(result_dtype(inputs)))
