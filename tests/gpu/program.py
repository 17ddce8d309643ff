"""What Inductor generates for CUDA, forward and backward, on a machine without a GPU.

Autograd cannot follow fake CUDA tensors without a driver (its engine asks for streams), so the joint graph is traced
on the CPU and moved to `cuda:0` once it is cut into forward and backward. The rest is Inductor's compiler as it is.
`python -m tests.gpu.program FILE CASE` writes the program of one of `models.CASES` to a file: for tests that need the
Triton interpreter, under which nothing can be compiled.
"""

from __future__ import annotations

import argparse
import json
import re
from collections import Counter
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import asdict, dataclass
from pathlib import Path
from types import SimpleNamespace
from typing import Any
from unittest import mock

import torch
import torch._functorch.config as autograd_config
import torch._inductor.config as inductor_config
from torch import Tensor, nn
from torch._guards import detect_fake_mode
from torch._inductor.compile_fx import compile_fx, compile_fx_inner
from torch._inductor.graph import GraphLowering
from torch._inductor.utils import fresh_cache
from torch.fx.passes.fake_tensor_prop import FakeTensorProp

from mhc_compile.kernels.triton import backward as triton_backward
from mhc_compile.kernels.triton import forward as triton_forward
from mhc_compile.kernels.triton import leave as triton_leave
from mhc_compile.kernels.triton import logits as triton_logits
from mhc_compile.kernels.triton import parameters as triton_parameters
from mhc_compile.kernels.triton import single as triton_single
from tests.gpu import models
from tests.gpu.fake_cuda import fake_cuda
from tests.gpu.kernel_source import sources

MODULES = (triton_forward, triton_leave, triton_logits, triton_backward, triton_parameters, triton_single)
OURS = {name for module in MODULES for name in vars(module) if name.endswith("_kernel")}
DEVICE = torch.device("cuda", 0)


@dataclass(frozen=True)
class Stage:
    """One generated program.

    Attributes:
        source: Python, with the kernels in it.
        inputs: names of what `call` takes; a name stands for the same value in both stages.
        outputs: names of what it returns, None for no gradient.
        overwritten: which of its inputs Inductor believes to be written.
    """

    source: str
    inputs: tuple[str, ...]
    outputs: tuple[str | None, ...]
    overwritten: tuple[str, ...]


@dataclass(frozen=True)
class Program:
    """Forward and backward; `names` are those of the model's parameters, buffers and inputs, in the order of `call`."""

    forward: Stage
    backward: Stage
    names: tuple[str, ...]

    def save(self, path: Path) -> None:
        path.write_text(json.dumps(asdict(self)))

    @classmethod
    def load(cls, path: Path) -> Program:
        forward, backward, names = json.loads(path.read_text()).values()
        return cls(Stage(**forward), Stage(**backward), tuple(names))


@dataclass(frozen=True)
class Launches:
    """How often `call` starts each kernel: ours by the names in `kernels/`, Inductor's own, and those of libraries."""

    ours: Counter[str]
    inductor: Counter[str]
    libraries: Counter[str]


def launches(source: str) -> Launches:
    """The kernel calls of a generated program."""
    kernels = sources(source)
    started = Counter(kernels[name][0] for name in re.findall(r"^ +(\w+)\.run\(", source, re.MULTILINE))
    ours = Counter({name: count for name, count in started.items() if name in OURS})
    others = r"^ +(?:\w+ = )?(?:extern_kernels|torch\.ops\.\w+)\.(\w+)"
    libraries = Counter(re.findall(others, source, re.MULTILINE))
    return Launches(ours, started - ours, libraries)


def generate(model: nn.Module, inputs: Sequence[Tensor], *, dynamic: bool = False) -> Program:
    """The program for `inputs` (on the CPU, as the model) as if all of it were on an H100.

    With `dynamic` the size of the first dimension of every input is a symbol. Every parameter gets a gradient.
    """
    shapes = tuple({0: torch.export.Dim.DYNAMIC} for _ in inputs) if dynamic else None
    exported = torch.export.export(model, tuple(inputs), dynamic_shapes=shapes)
    specs = exported.graph_signature.input_specs
    values = [node.meta["val"] for node in exported.graph.find_nodes(op="placeholder")]
    for value in values:
        value.requires_grad_(value.is_floating_point())
    stages: list[Stage] = []
    with fake_cuda(), _compiling_both(), fresh_cache():
        compile_fx(exported.graph_module, values, inner_compile=_on_cuda(stages))
    forward, backward = stages
    return Program(forward, backward, tuple(spec.target or spec.arg.name for spec in specs))


@contextmanager
def _compiling_both() -> Iterator[None]:
    """The backward at once, not when it is first called; nothing from a cache."""
    both = autograd_config.patch(force_non_lazy_backward_lowering=True)
    with both, inductor_config.patch(force_disable_caches=True, compile_threads=1):
        yield


def _on_cuda(stages: list[Stage]) -> Any:
    """`compile_fx_inner` for the graph moved to CUDA; the program is kept, not loaded."""

    def keep(graph: GraphLowering) -> Any:
        written.append((graph.codegen()[0].value, tuple(graph.mutated_inputs)))
        return SimpleNamespace(call=None, key="", __file__="")

    def inner_compile(gm: torch.fx.GraphModule, inputs: Sequence[Any], **options: Any) -> Any:
        taken = tuple(node.name for node in gm.graph.find_nodes(op="placeholder"))
        given = tuple(getattr(value, "name", None) for value in gm.graph.output_node().args[0])
        with mock.patch.object(GraphLowering, "compile_to_module", keep):
            compiled = compile_fx_inner(gm, _move(gm, inputs), **options)
        source, overwritten = written.pop()
        stages.append(Stage(source, taken, given, overwritten))
        return compiled

    written: list[tuple[str, tuple[str, ...]]] = []
    return inner_compile


def _move(gm: torch.fx.GraphModule, inputs: Sequence[Any]) -> list[Any]:
    """Move a graph to CUDA in place; its inputs there."""
    mode = detect_fake_mode(inputs)
    for node in gm.graph.nodes:
        if "device" in node.kwargs:
            node.update_kwarg("device", DEVICE)
    with mode:
        moved = [_twin(value) if isinstance(value, Tensor) else value for value in inputs]
    FakeTensorProp(gm, mode=mode).propagate_dont_convert_inputs(*moved)
    return moved


def _twin(value: Tensor) -> Tensor:
    return torch.empty_strided(value.size(), value.stride(), dtype=value.dtype, device=DEVICE)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("file", type=Path)
    parser.add_argument("case", choices=models.CASES)
    parser.add_argument("--any-batch", action="store_true")
    options = parser.parse_args()
    generate(*models.CASES[options.case](), dynamic=options.any_batch).save(options.file)


if __name__ == "__main__":
    main()
