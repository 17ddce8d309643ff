"""A generated CUDA program computes what eager fp64 does, forward and backward."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path
from unittest import mock

import pytest
import torch
from torch import Tensor, nn

from mhc_compile.kernels.formulas import packed
from mhc_compile.kernels.operators import ops
from tests.gpu import models
from tests.gpu.program import Program
from tests.gpu.running import run

TOLERANCE = 1e-4  # relative to the largest value, fp32


def generated(folder: Path, case: str, *options: str) -> Program:
    """The program of one of `models.CASES`, made in a process without the interpreter."""
    file = folder / "program.json"
    environment = {key: value for key, value in os.environ.items() if key != "TRITON_INTERPRET"}
    command = [sys.executable, "-m", "tests.gpu.program", str(file), case, *options]
    subprocess.run(command, env=environment, check=True)
    return Program.load(file)


def eager(model: nn.Module, x: Tensor, grad: Tensor) -> dict[str, Tensor]:
    """Output and gradients by name in fp64, the steps in plain PyTorch."""
    model, x = model.double(), x.double().requires_grad_()
    with mock.patch.object(ops, "implementation", lambda X, y, n, connection=None: packed):
        output = model(x)
        output.backward(grad.double())
    return {"output": output.detach(), "input": x.grad, **{name: p.grad for name, p in model.named_parameters()}}


def assert_computes(program: Program, model: nn.Module, x: Tensor) -> None:
    grad = torch.linspace(-1, 1, x.numel()).view_as(x)
    output, gradients = run(program, {**dict(model.named_parameters()), "input": x}, grad)
    found, expected = {"output": output, **gradients}, eager(model, x, grad)
    assert found.keys() == expected.keys()
    errors = {name: relative_error(found[name], expected[name]) for name in expected}
    print("largest relative errors", sorted((error, name) for name, error in errors.items())[-3:])
    assert not {name: error for name, error in errors.items() if not error <= TOLERANCE}


def relative_error(found: Tensor, expected: Tensor) -> float:
    return float((found.double() - expected).abs().max() / expected.abs().max())


@pytest.mark.exhaustive  # which kernels a program calls is in `test_generated.py`, what they compute in `test_steps.py`
@pytest.mark.parametrize("case", models.CASES)
def test_the_generated_program_computes_output_and_every_gradient(case: str, tmp_path: Path) -> None:
    model, (x,) = models.CASES[case]()
    assert_computes(generated(tmp_path, case), model, x)


@pytest.mark.exhaustive  # another program to interpret; `make gpu-proof` has it
def test_a_program_for_any_batch_serves_another_one(tmp_path: Path) -> None:
    model, (x,) = models.CASES["transformer"]()
    program = generated(tmp_path, "transformer", "--any-batch")
    assert_computes(program, model, torch.randn(5, *x.shape[1:]))
