"""The fused steps on the CPU as schedules: one C++ kernel each, compiled for n, m and the dtypes only.

`inputs` maps the tensor parameters of the function in `packed.py` to their specs. Sizes of a launch are `outer`,
`channels` and `inner` of one stream (`layout.Layout`) and `parts`, the number of threads: sums over tokens are kept
per part and added up in order, so results depend on nothing but the inputs and that number.
"""

from __future__ import annotations

from collections.abc import Mapping
from functools import cache
from importlib.resources import files

import torch

from mhc_compile.kernels.cpu.kernel import CppKernel
from mhc_compile.kernels.formulas import reference
from mhc_compile.kernels.formulas.layout import layout_of
from mhc_compile.kernels.schedules.restoring import passes
from mhc_compile.kernels.schedules.schedule import Launch, Schedule, Size, Spec

Specs = Mapping[str, Spec]

STREAMS = range(2, 9)
C_TYPES = {
    torch.float32: "float",
    torch.float64: "double",
    torch.bfloat16: "mhc::bf16",
    torch.float16: "mhc::f16",
}
HEADERS = (
    "vectors.h",
    "tiles.h",
    "coefficients.h",
    "products.h",
    "forward.h",
    "backward.h",
    "leave.h",
    "restore.h",
)


def covers(dtype: torch.dtype, n: int) -> str | None:
    """Why these kernels do not cover n streams of this dtype; None if they do."""
    if dtype not in C_TYPES:
        return f"the C++ kernels do not cover {dtype}"
    if n not in STREAMS:
        return f"the C++ kernels cover {STREAMS.start} to {STREAMS.stop - 1} streams, not {n}"
    return None


def gate(inputs: Specs, n: int, axis: int) -> Schedule:
    """`packed.gate`."""
    X = inputs["X"]
    results = {"u": Spec(X.shape[1:], X.dtype), **_gate_results(X, n, axis)}
    return _forward("gate", inputs, results, n, axis)


def write(inputs: Specs, n: int, axis: int) -> Schedule:
    """`packed.write`."""
    return _forward("write", inputs, {"following": _following(inputs, n)}, n, axis)


def boundary(inputs: Specs, n: int, axis: int) -> Schedule:
    """`packed.boundary`."""
    following = _following(inputs, n)
    u = Spec(following.shape[1:], following.dtype)
    results = {"following": following, "u": u, **_gate_results(following, n, axis)}
    return _forward("boundary", inputs, results, n, axis)


def leave(inputs: Specs, n: int, axis: int, scale: float) -> Schedule:
    """`packed.leave`."""
    out = {"out": Spec(inputs["y"].shape, _result_dtype(inputs))}
    return _schedule("leave", f"mhc::leave<S>(X, y, mix, out, {_SHAPE}, {scale!r});", inputs, out, {}, n, axis)


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
        kernel = _kernel("mhc_restore", body, _parameters(read, written, sizes), _constants(each.specs(specs), n, axis))
        launches.append(Launch(kernel, {**tensors, "restored": each.result}, sizes))
        buffers[each.result] = each.spec
    return Schedule(buffers, tuple(launches), (each.result,))


def gate_backward(inputs: Specs, n: int, axis: int) -> Schedule:
    """`packed.gate_backward`."""
    return _backward("gate", inputs, ("X", "phi", "alpha", "bias"), n, axis)


def write_backward(inputs: Specs, n: int, axis: int) -> Schedule:
    """`packed.write_backward`."""
    return _backward("write", inputs, ("X", "y", "mix"), n, axis)


def boundary_backward(inputs: Specs, n: int, axis: int) -> Schedule:
    """`packed.boundary_backward`."""
    return _backward("boundary", inputs, ("X", "y", "mix", "phi", "alpha", "bias"), n, axis)


def leave_backward(inputs: Specs, n: int, axis: int, scale: float) -> Schedule:
    """`packed.leave_backward`."""
    results = {f"grad_{name}": inputs[name] for name in ("X", "y", "mix")}
    body = f"mhc::leave_backward<S>(g, X, y, mix, grad_X, grad_y, grad_mix, {_SHAPE}, {scale!r});"
    return _schedule("leave_backward", body, inputs, results, {}, n, axis)


_SHAPE = "mhc::Shape{outer, channels, inner}, parts"
_STEPS = {"gate": "false, true", "write": "true, false", "boundary": "true, true"}  # WRITES, GATES
_FORWARD = ("X", "y", "mix", "phi", "alpha", "bias", "following", "u", "mix_out", "stat", "packed_phi")
_BACKWARD = ("g", "gu", "gmix", "X", "y", "mix", "phi", "alpha", "bias", "stat", "grad_X", "grad_y", "grad_mix",
             "grad_phi", "grad_alpha", "grad_bias", "packed_phi", "phi_parts", "sums_parts")  # fmt: skip


def _forward(step: str, inputs: Specs, results: Specs, n: int, axis: int) -> Schedule:
    streams = inputs["X"].shape[0] if step == "gate" else n
    scratch = {"packed_phi": _packed_phi(inputs, streams, n, axis)} if "phi" in inputs else {}
    passed = (name if name in {**inputs, **results, **scratch} else "nullptr" for name in _FORWARD)
    body = f"mhc::forward<S, {_STEPS[step]}>({', '.join(passed)}, {_SHAPE});"
    return _schedule(step, body, inputs, results, scratch, n, axis)


def _backward(step: str, inputs: Specs, wanted: tuple[str, ...], n: int, axis: int) -> Schedule:
    results = {f"grad_{name}": inputs[name] for name in wanted}
    streams = inputs["X"].shape[0] if step == "gate" else n
    scratch: dict[str, Spec] = {}
    if "phi" in inputs:
        scratch["packed_phi"] = packed = _packed_phi(inputs, streams, n, axis)
        scratch["phi_parts"] = Spec((torch.get_num_threads(), *packed.shape), packed.dtype)
        scratch["sums_parts"] = Spec((torch.get_num_threads(), 3 + n * n + 2 * n), torch.float64)
    passed = (name if name in {**inputs, **results, **scratch} else "nullptr" for name in _BACKWARD)
    body = f"mhc::backward<S, {_STEPS[step]}>({', '.join(passed)}, {_SHAPE});"
    return _schedule(f"{step}_backward", body, inputs, results, scratch, n, axis)


def _schedule(name: str, body: str, inputs: Specs, results: Specs, scratch: Specs, n: int, axis: int) -> Schedule:
    """The body in a function that takes all inputs and buffers by name, and the sizes."""
    buffers, sizes = {**results, **scratch}, _sizes(inputs["X"], axis)
    kernel = _kernel(f"mhc_{name}", body, _parameters(inputs, buffers, sizes), _constants(inputs, n, axis))
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


def _parameters(read: Specs, written: Specs, sizes: Mapping[str, Size]) -> tuple[tuple[str, str], ...]:
    """Name and C type of each parameter of a kernel."""
    inputs = ((key, f"const {C_TYPES[spec.dtype]}*") for key, spec in read.items())
    buffers = ((key, f"{C_TYPES[spec.dtype]}*") for key, spec in written.items())
    return (*inputs, *buffers, *((size, "int64_t") for size in sizes))


def _constants(inputs: Specs, n: int, axis: int) -> str:
    """The struct that says what the headers are compiled for."""
    types = {key: C_TYPES[spec.dtype] for key, spec in inputs.items()}
    out = _result_dtype(inputs)
    coefficient = C_TYPES[reference.coefficient_dtype(out)]
    aliases = {"F": coefficient, "X": types["X"], "Y": types.get("y", types["X"]), "O": C_TYPES[out]}
    aliases |= {key.capitalize(): types.get(key, coefficient) for key in ("mix", "gmix", "phi", "alpha", "bias")}
    uses = " ".join(f"using {alias} = {ctype};" for alias, ctype in aliases.items())
    m, *stream = inputs["X"].shape
    last = str(axis == len(stream) - 1).lower()
    values = f"static constexpr int n = {n}, m = {m}; static constexpr bool last = {last};"
    return f"struct kernel_constants {{ {values} {uses} }};"


@cache
def _kernel(name: str, body: str, parameters: tuple[tuple[str, str], ...], constants: str) -> CppKernel:
    """The headers, what they are compiled for, and the function. One object serves all shapes: its text is long."""
    arguments = ", ".join(f"{ctype} {key}" for key, ctype in parameters)
    code = f'{constants}\n\nextern "C" void kernel({arguments}) {{\n  using S = kernel_constants;\n  {body}\n}}\n'
    return CppKernel(name, _library(), code, parameters)


@cache
def _library() -> str:
    """The text of the headers, with the constants of the formulas, in an include guard."""
    constants = (
        f"#define MHC_SINKHORN_ITERATIONS {reference.SINKHORN_ITERATIONS}\n#define MHC_RMS_EPS {reference.RMS_EPS}\n"
    )
    folder = files("mhc_compile.kernels.cpu")
    text = constants + "\n".join(folder.joinpath(name).read_text() for name in HEADERS)
    return f"#ifndef MHC_KERNELS\n#define MHC_KERNELS\n{text}\n#endif\n\n"


def _result_dtype(inputs: Specs) -> torch.dtype:
    X, y = inputs["X"], inputs.get("y", inputs["X"])
    return torch.promote_types(X.dtype, y.dtype)


def _following(inputs: Specs, n: int) -> Spec:
    return Spec((n, *inputs["y"].shape), _result_dtype(inputs))


def _gate_results(X: Spec, n: int, axis: int) -> dict[str, Spec]:
    dtype, tokens, columns = reference.coefficient_dtype(X.dtype), layout_of(X.shape[1:], axis).tokens, n * n + n
    return {"mix_out": Spec((tokens, columns), dtype), "stat": Spec((tokens, columns + n + 1), dtype)}


def _packed_phi(inputs: Specs, streams: Size, n: int, axis: int) -> Spec:
    """Scratch for phi in the order in which the kernel reads it; `Sizes` in products.h has no larger numbers."""
    chunk, columns = (256 if n <= 4 else 128), -(-(n * n + 2 * n) // 16) * 16
    channels = -(-inputs["X"].shape[axis + 1] // chunk) * chunk
    return Spec((channels * streams * columns,), reference.coefficient_dtype(_result_dtype(inputs)))
