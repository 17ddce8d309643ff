"""Transformed models leave Python: `torch.export`, packages of AOTInductor, ONNX.

Hyper-connections are moved away from where they start: at `phi = 0` half of the formula would not be tested.
"""

from __future__ import annotations

import subprocess
import sys
from collections.abc import Sequence
from functools import cache
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import Tensor, nn

import mhc_compile
from examples.hf_llama import tiny_llama
from examples.train_char_gpt import CharGPT
from mhc_compile.errors import CaptureError
from mhc_compile.export import decompose
from mhc_compile.kernels.formulas.sinkhorn import sinkhorn
from mhc_compile.kernels.operators import ops
from mhc_compile.programs.plain_twin import disown
from tests.kernels.step_inputs import step_inputs
from tests.tables import also

OPEN = torch.export.Dim.DYNAMIC
TOLERANCE = 1e-5  # of outputs whose rms is about 1
# Runs in a process that cannot import this package: what is loaded must bring everything along.
WITHOUT_THIS_PACKAGE = """
import sys
sys.modules["mhc_compile"] = None
import torch
run = {program}
torch.save([run(*call) for call in torch.load(sys.argv[1])], sys.argv[2])
assert not any(name.startswith("mhc_compile.") for name in sys.modules)
"""


def moved(model: nn.Module, example: Tensor, connection: str = "mhc", n: int = 4) -> nn.Module:
    """The model, transformed, with hyper-connections as if trained."""
    hyper = mhc_compile.transform(model.eval(), n=n, connection=connection, example_inputs=(example,), modes=("eval",))
    generator = torch.Generator().manual_seed(1)
    with torch.no_grad():
        for parameter in hyper.hyper_connections.parameters():
            parameter.add_(0.05 * torch.randn(parameter.shape, generator=generator))
        plain = disown(hyper)
        assert (tensor(hyper(example)) - tensor(plain(example))).abs().max() > 100 * TOLERANCE
    return hyper


def tensor(output: Any) -> Tensor:
    return output if isinstance(output, Tensor) else next(iter(output.values()))


def characters(batch: int, length: int) -> Tensor:
    return torch.randint(0, 128, (batch, length), generator=torch.Generator().manual_seed(length))


def images(batch: int) -> Tensor:
    return torch.randn(batch, 3, 32, 32, generator=torch.Generator().manual_seed(batch))


def gpt(layers: int = 1, width: int = 16) -> CharGPT:
    torch.manual_seed(0)
    return CharGPT(16, width, layers, heads=4)


def export(model: nn.Module, example: Tensor, axes: Sequence[int] = (0, 1)) -> torch.export.ExportedProgram:
    with torch.no_grad():
        return torch.export.export(model, (example,), dynamic_shapes=({axis: OPEN for axis in axes},))


@cache
def exported_gpt() -> tuple[nn.Module, torch.export.ExportedProgram, torch.export.ExportedProgram]:
    """A model, its program, and that decomposed: who changes one of them makes their own."""
    model = moved(gpt(), characters(2, 12))
    program = export(model, characters(2, 12))
    return model, program, decompose(program)


def operators(program: torch.export.ExportedProgram) -> set[str]:
    graphs = [m.graph for m in program.graph_module.modules() if isinstance(m, torch.fx.GraphModule)]
    return {str(node.target) for graph in graphs for node in graph.nodes if node.op == "call_function"}


def elsewhere(folder: Path, program: str, calls: Sequence[tuple[Tensor, ...]]) -> Any:
    """What `program`, code that loads it, returns for these calls in a process without this package."""
    given, found = folder / "calls", folder / "results"
    torch.save(calls, given)
    code = WITHOUT_THIS_PACKAGE.format(program=program)
    done = subprocess.run([sys.executable, "-c", code, given, found], cwd=folder, capture_output=True, text=True)
    assert done.returncode == 0, done.stderr
    return torch.load(found)


@pytest.mark.parametrize("connection", ["mhc", "hc"])
def test_an_exported_model_computes_the_same_under_the_same_names_for_other_sizes(connection: str) -> None:
    if connection == "mhc":
        model, *programs = exported_gpt()
    else:
        model = moved(gpt(), characters(2, 12), connection)
        programs = [export(model, characters(2, 12))]
    for program in programs:
        assert set(program.state_dict) == set(model.state_dict()) - {"hyper_connections._extra_state"}
        for call in (characters(2, 12), characters(3, 7), characters(1, 16), characters(1, 1)):
            torch.testing.assert_close(program.module()(call), model(call), rtol=0, atol=TOLERANCE)


def test_decompose_leaves_no_operator_of_this_package_and_no_other_behind() -> None:
    _, exported, decomposed = exported_gpt()
    assert {"mhc.gate.default", "mhc.boundary.default", "mhc.leave.default"} <= operators(exported)
    left = operators(decomposed)
    assert not {name for name in left if name.startswith("mhc.")}
    assert {"aten.linear.default", "aten.gelu.default", "aten.layer_norm.default"} <= left


class Plain(nn.Module):
    """What a site that is not fused calls."""

    def forward(self, logits: Tensor) -> Tensor:
        return sinkhorn(logits)


def test_decompose_knows_the_sinkhorn_iterations_of_sites_that_are_not_fused() -> None:
    logits = torch.randn(4, 4, 7)
    exported = torch.export.export(Plain(), (logits,), dynamic_shapes=({2: OPEN},))
    assert operators(exported) == {"mhc.sinkhorn.default"}
    program = decompose(exported)
    assert "mhc.sinkhorn.default" not in operators(program)
    torch.testing.assert_close(program.module()(logits), sinkhorn(logits))


def test_a_decomposed_program_trains_as_the_model_does() -> None:
    model, _, decomposed = exported_gpt()
    call, program = characters(2, 12), decomposed.module()
    found = torch.autograd.grad(program(call).square().sum(), list(program.parameters()))
    names = [name for name, _ in program.named_parameters()]
    expected = torch.autograd.grad(model(call).square().sum(), [model.get_parameter(name) for name in names])
    for name, ours, theirs in zip(names, found, expected, strict=True):
        torch.testing.assert_close(ours, theirs, rtol=1e-4, atol=1e-4, msg=name)


def test_a_call_that_was_not_traced_yet_is_refused_with_what_to_do() -> None:
    model = moved(gpt(), characters(2, 12))
    with pytest.raises(CaptureError, match="call the model once with the inputs to export"):
        torch.export.export(model, (characters(1, 12),))
    model(characters(1, 12))
    program = torch.export.export(model, (characters(1, 12),)).module()
    torch.testing.assert_close(program(characters(1, 12)), model(characters(1, 12)))


@pytest.mark.slow
def test_a_saved_program_runs_without_this_package(tmp_path: Path) -> None:
    model, _, decomposed = exported_gpt()
    torch.export.save(decomposed, tmp_path / "program.pt2")
    same_elsewhere(model, "torch.export.load('program.pt2').module()", tmp_path)


# What packages are made of runs in `make test`: the kernels in programs of Inductor, and refusals of the next test.
@pytest.mark.exhaustive
@pytest.mark.slow
@pytest.mark.parametrize(("connection", "n"), [("mhc", 4), ("hc-static", 2)])  # of the other they hold nothing of ours
def test_a_package_of_aotinductor_runs_without_this_package(connection: str, n: int, tmp_path: Path) -> None:
    model = exported_gpt()[0] if connection == "mhc" else moved(gpt(), characters(2, 12), connection, n=n)
    exported = exported_gpt()[1] if connection == "mhc" else export(model, characters(2, 12))
    # To parse headers beforehand pays for several packages.
    once = {"aot_inductor.precompile_headers": False}
    package = str(tmp_path / "package.pt2")
    torch._inductor.aoti_compile_and_package(exported, package_path=package, inductor_configs=once)
    same_elsewhere(model, "torch._inductor.aoti_load_package('package.pt2')", tmp_path)


def same_elsewhere(model: nn.Module, program: str, folder: Path) -> None:
    calls = [(characters(2, 12),), (characters(3, 7),), (characters(1, 1),)]
    for call, found in zip(calls, elsewhere(folder, program, calls), strict=True):
        torch.testing.assert_close(found, model(*call), rtol=0, atol=TOLERANCE)


class Uncovered(nn.Module):
    """A step that has no kernel: one stream."""

    def forward(self, X: Tensor, y: Tensor, mix: Tensor) -> Tensor:
        return ops.write(X, y, mix, n=1, axis=2)


@pytest.mark.slow
@pytest.mark.parametrize("case", ["step", "sinkhorn"])
def test_a_package_that_would_need_this_package_is_refused(case: str, tmp_path: Path) -> None:
    data = step_inputs(1, "tiny")
    model, calls = (Uncovered(), (data.X, data.y, data.mix)) if case == "step" else (Plain(), (torch.randn(4, 4, 7),))
    exported = torch.export.export(model, calls)
    with pytest.raises(Exception, match=r"PackageNeedsPythonError: .*export\.decompose\(exported_program\)"):
        torch._inductor.aoti_compile_and_package(exported, package_path=str(tmp_path / "model.pt2"))


def vit() -> nn.Module:
    return pytest.importorskip("timm").create_model("vit_tiny_patch16_224", img_size=32, depth=1, num_classes=5)


def resnet() -> nn.Module:
    parts = pytest.importorskip("timm").models.resnet
    sizes = {"layers": (2, 1, 1, 1), "channels": (64, 16, 16, 16), "num_classes": 5}
    return parts.ResNet(parts.BasicBlock, **sizes, zero_init_last=False)  # else the branches are 0


ONNX = {
    "gpt": (gpt, [characters(2, 12), characters(3, 7), characters(1, 16)], (0, 1)),
    "vit": (vit, [images(2), images(3), images(1)], (0,)),
    "resnet": (resnet, [images(2), images(3), images(1)], (0,)),
    "llama": (tiny_llama, [characters(2, 12), characters(3, 7), characters(1, 16)], (0, 1)),
}


@pytest.mark.slow
@pytest.mark.parametrize(
    ("family", "connection"),
    [("gpt", "mhc"), *also(("gpt", "hc"), *((family, "mhc") for family in ("vit", "llama", "resnet")))],
)
def test_onnx_computes_the_same_for_other_batches_and_lengths(family: str, connection: str, tmp_path: Path) -> None:
    runtime = pytest.importorskip("onnxruntime", reason="pip install 'mhc-compile[onnx]'")
    pytest.importorskip("onnxscript", reason="pip install 'mhc-compile[onnx]'")
    build, calls, axes = ONNX[family]
    torch.manual_seed(0)
    if (family, connection) == ("gpt", "mhc"):
        model, _, program = exported_gpt()
    else:
        model = moved(build(), calls[0], connection, n=2 if connection == "hc" else 4)
        program = decompose(export(model, calls[0], axes))
    torch.onnx.export(program, dynamo=True, verbose=False).save(tmp_path / "model.onnx")
    session = runtime.InferenceSession(tmp_path / "model.onnx")
    (name,) = (given.name for given in session.get_inputs())
    for call in calls:
        found = torch.from_numpy(session.run(None, {name: call.numpy()})[0])
        with torch.no_grad():
            torch.testing.assert_close(found, tensor(model(call)), rtol=0, atol=TOLERANCE)
