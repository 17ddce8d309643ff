"""Kernels of a schedule compiled for a GPU that need not be there, and what the machine code says."""

from __future__ import annotations

import functools
import re
import subprocess
import tempfile
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
import triton
from triton.backends.compiler import GPUTarget
from triton.compiler import ASTSource

from mhc_compile.kernels.schedule import Launch, Schedule, Spec

TARGETS = {
    "sm_80": GPUTarget("cuda", 80, 32),
    "sm_90": GPUTarget("cuda", 90, 32),
    "sm_100": GPUTarget("cuda", 100, 32),
    "gfx942": GPUTarget("hip", "gfx942", 64),
}
_TYPES = {torch.float32: "*fp32", torch.bfloat16: "*bf16", torch.float16: "*fp16"}
_TOOLS = Path(triton.__file__).parent / "backends" / "nvidia" / "bin"


@dataclass(frozen=True)
class Resources:
    """Per thread registers and bytes spilled to local memory; shared bytes per program."""

    registers: int
    spills: int
    shared: int


def compiled(launch: Launch, specs: dict[str, Spec], target: GPUTarget) -> Any:
    """The kernel of a launch as Triton would compile it for tensors of these specs, aligned to 16 bytes."""
    kernel = launch.kernel
    ones = {name: 1 for name, size in launch.sizes.items() if size == 1}  # Triton makes these constants too
    constants = {**launch.constants, **ones}
    signature = {name: "constexpr" for name in constants}
    signature |= {name: _TYPES[specs[source].dtype] for name, source in launch.tensors.items()}
    signature |= {name: "i32" for name in launch.sizes if name not in ones}
    names = kernel.arg_names
    aligned = [n for n in names if n in launch.tensors or (n in launch.sizes and launch.sizes[n] % 16 == 0)]
    attrs = {(names.index(name),): [["tt.divisibility", 16]] for name in aligned}
    source = ASTSource(
        kernel,
        {name: signature[name] for name in names},
        {(names.index(name),): value for name, value in constants.items()},
        attrs,
    )
    return triton.compile(source, target=target, options=dict(launch.options))


def kernels(schedule: Schedule, inputs: dict[str, Spec], target: GPUTarget) -> dict[str, Any]:
    """Kernel name -> compiled kernel, for every launch of a schedule."""
    specs = {**inputs, **schedule.buffers}
    return {launch.kernel.__name__: compiled(launch, specs, target) for launch in schedule.launches}


def resources(kernel: Any) -> Resources:
    """What ptxas gave the kernel."""
    text = _tool("cuobjdump", "--dump-resource-usage", kernel.asm["cubin"])
    usage = {key: int(value) for key, value in re.findall(r"\b(REG|STACK|LOCAL):(\d+)", text)}
    return Resources(usage["REG"], usage["STACK"] + usage["LOCAL"], kernel.metadata.shared)


def machine_code(kernel: Any) -> str:
    """The SASS of a kernel."""
    return _tool("nvdisasm", "-c", kernel.asm["cubin"])


@functools.cache
def _tool(name: str, option: str, cubin: bytes) -> str:
    with tempfile.NamedTemporaryFile(suffix=".cubin") as file:
        file.write(cubin)
        file.flush()
        command = [str(_TOOLS / name), option, file.name]
        return subprocess.run(command, capture_output=True, text=True, check=True).stdout
