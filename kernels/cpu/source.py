"""From a fused step to the source of its C++ kernel: the headers, what they are compiled for, and one function."""

from __future__ import annotations

from collections.abc import Mapping
from functools import cache
from importlib.resources import files

import torch

from mhc_compile.kernels.cpu.kernel import CppKernel
from mhc_compile.kernels.formulas import reference
from mhc_compile.kernels.formulas.lookup import manifold_of
from mhc_compile.kernels.schedules.schedule import Size, Spec

Specs = Mapping[str, Spec]

C_TYPES = {
    torch.float32: "float",
    torch.float64: "double",
    torch.bfloat16: "mhc::bf16",
    torch.float16: "mhc::f16",
}
HEADERS = (
    "vectors.h",
    "tiles.h",
    "duals.h",
    "projections.h",
    "coefficients.h",
    "tangents.h",
    "products.h",
    "forward.h",
    "backward.h",
    "backward_write.h",
    "backward_parts.h",
    "leave.h",
    "restore.h",
)


MATRICES = {
    "sinkhorn": "Sinkhorn",
    "permutations": "Permutations",
    "kronecker": "Kronecker",
    "circulant": "Circulant",
    "identity": "Identity",
    "unconstrained": "Unconstrained",
}
"""Projection -> its struct in coefficients.h or projections.h."""


def parameters(read: Specs, written: Specs, sizes: Mapping[str, Size]) -> tuple[tuple[str, str], ...]:
    """Name and C type of each parameter of a kernel."""
    inputs = ((key, f"const {C_TYPES[spec.dtype]}*") for key, spec in read.items())
    buffers = ((key, f"{C_TYPES[spec.dtype]}*") for key, spec in written.items())
    return (*inputs, *buffers, *((size, "int64_t") for size in sizes))


def constants(inputs: Specs, n: int, axis: int, connection: str | None, *, single: bool = False) -> str:
    """The struct that says what the headers are compiled for; where there are no coefficients, that of `mhc`."""
    types = {key: C_TYPES[spec.dtype] for key, spec in inputs.items()}
    out = result_dtype(inputs)
    coefficient = C_TYPES[reference.coefficient_dtype(out)]
    aliases = {"F": coefficient, "X": types["X"], "Y": types.get("y", types["X"]), "O": C_TYPES[out]}
    given = ("mix", "pre", "gmix", "gpre", "phi", "alpha", "bias")
    aliases |= {key.capitalize(): types.get(key, coefficient) for key in given}
    uses = " ".join(f"using {alias} = {ctype};" for alias, ctype in aliases.items())
    m, *stream = inputs["X"].shape
    manifold = manifold_of(connection or "mhc")
    flags = {"last": axis == len(stream) - 1, "single": single, "hyper": manifold.hyper}
    values = f"static constexpr int n = {n}, m = {m}; static constexpr bool "
    values += ", ".join(f"{name} = {str(value).lower()}" for name, value in flags.items())
    values += f"; static constexpr double magnitude = {manifold.magnitude!r}, eps = {manifold.eps!r};"
    matrix = f"template <class V> using Matrix = mhc::{MATRICES[manifold.projection]}<V, n>;"
    return f"struct kernel_constants {{ {values} {uses} {matrix} }};"


@cache
def kernel_of(name: str, body: str, parameters: tuple[tuple[str, str], ...], constants: str) -> CppKernel:
    """The headers, what they are compiled for, and the function. One object serves all shapes: its text is long."""
    arguments = ", ".join(f"{ctype} {key}" for key, ctype in parameters)
    code = f'{constants}\n\nextern "C" void kernel({arguments}) {{\n  using S = kernel_constants;\n  {body}\n}}\n'
    return CppKernel(name, _library(), code, parameters)


@cache
def _library() -> str:
    """The text of the headers, with the constants of the formulas, in an include guard."""
    constants = (
        f"#define MHC_SINKHORN_ITERATIONS {reference.SINKHORN_ITERATIONS}\n#define MHC_RMS_EPS {reference.RMS_EPS}\n"
        f"#define MHC_LAYER_NORM_EPS {reference.LAYER_NORM_EPS}\n"
    )
    folder = files("mhc_compile.kernels.cpu")
    text = constants + "\n".join(folder.joinpath(name).read_text() for name in HEADERS)
    return f"#ifndef MHC_KERNELS\n#define MHC_KERNELS\n{text}\n#endif\n\n"


def result_dtype(inputs: Specs) -> torch.dtype:
    """Of the streams behind the write, if there is one."""
    X, y = inputs["X"], inputs.get("y", inputs["X"])
    return torch.promote_types(X.dtype, y.dtype)
