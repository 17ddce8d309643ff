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

from mhc_compile.kernels.schedules.schedule import Launch, Schedule, Spec

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
    """What the assembler gave the kernel."""
    if "amdgcn" in kernel.asm:
        usage = dict(re.findall(r"\.(vgpr_count|vgpr_spill_count|sgpr_spill_count):\s+(\d+)", kernel.asm["amdgcn"]))
        spills = 4 * (int(usage["vgpr_spill_count"]) + int(usage["sgpr_spill_count"]))
        return Resources(int(usage["vgpr_count"]), spills, kernel.metadata.shared)
    text = _tool("cuobjdump", "--dump-resource-usage", kernel.asm["cubin"])
    usage = dict(re.findall(r"\b(REG|STACK|LOCAL):(\d+)", text))
    return Resources(int(usage["REG"]), int(usage["STACK"]) + int(usage["LOCAL"]), kernel.metadata.shared)


def tensor_core_instructions(kernel: Any) -> int:
    """Matrix products in the machine code: HMMA and its successors, MFMA on AMD."""
    words = ("v_mfma_",) if "amdgcn" in kernel.asm else ("HMMA", "HGMMA", "UTCHMMA")
    return sum(machine_code(kernel).count(word) for word in words)


def wide_loads(kernel: Any) -> int:
    """Loads of 16 bytes a thread from global memory."""
    pattern = r"global_load_dwordx4|buffer_load_dwordx4" if "amdgcn" in kernel.asm else r"LDG\.E\S*\.128|LDGSTS\S*\.128"
    return len(re.findall(pattern, machine_code(kernel)))


def machine_code(kernel: Any) -> str:
    """The SASS of a kernel, or AMD's assembly."""
    return kernel.asm["amdgcn"] if "amdgcn" in kernel.asm else _tool("nvdisasm", "-c", kernel.asm["cubin"])


@functools.cache
def _tool(name: str, option: str, cubin: bytes) -> str:
    with tempfile.NamedTemporaryFile(suffix=".cubin") as file:
        file.write(cubin)
        file.flush()
        command = [str(_TOOLS / name), option, file.name]
        return subprocess.run(command, capture_output=True, text=True, check=True).stdout
