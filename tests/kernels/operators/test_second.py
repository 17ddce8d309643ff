"""Second derivatives run through the fused steps, third ones through the formulas: both against plain PyTorch."""

from __future__ import annotations

import pytest
import torch
from torch import Tensor

from mhc_compile.kernels.formulas import coefficients, packed
from mhc_compile.kernels.operators import ops
from mhc_compile.kernels.operators.implementations import chosen
from tests.kernels.step_calls import forward_arguments
from tests.tables import also

CONNECTIONS = ["mhc", "hc", *also("identity:magnitude=1.5,eps=0.01", "mhc-lite", "kronecker", "circulant")]


@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
@pytest.mark.parametrize("connection", CONNECTIONS)
def test_the_kernel_of_tangents_is_its_formula(connection: str, dtype: torch.dtype, recwarn) -> None:
    n, tokens = 4, 21
    columns = coefficients.manifold_of(connection).columns(n)
    generator = torch.Generator().manual_seed(0)
    widths = (columns, columns, n, n, n + n * n)
    given = [torch.randn(tokens, width, generator=generator, dtype=torch.float64).to(dtype) for width in widths]
    found = chosen("cpu", dtype, n, connection).tangents(*given, n, connection)
    for one, other in zip(found, coefficients.tangents(*given, n, connection), strict=True):
        torch.testing.assert_close(one, other, rtol=1e-3, atol=1e-5)
    assert not [w for w in recwarn if "plain PyTorch" in str(w.message)]  # the kernel was compiled


def penalty(run, tensors: list[Tensor], constants: list[object]) -> tuple[Tensor, list[Tensor]]:
    """The square of a gradient, which is a second derivative once it is differentiated."""
    results = run(*tensors, *constants)
    results = results if isinstance(results, tuple) else (results,)
    loss = sum((value * torch.linspace(-1, 1, value.numel(), dtype=value.dtype).view_as(value)).square().sum()
               for value in results if value.requires_grad and value.shape[-1] != 0)  # fmt: skip
    first = torch.autograd.grad(loss, tensors, create_graph=True)
    return sum(g.square().sum() for g in first), list(first)


def drawn(step: str) -> tuple[list[Tensor], list[object]]:
    arguments = forward_arguments(step, 4, "tiny", dtype=torch.float64)
    tensors = [a.detach().requires_grad_() for a in arguments if isinstance(a, Tensor)]
    return tensors, [a for a in arguments if not isinstance(a, Tensor)]


def without_statistics(step: str, run):
    """`stat` is no result that is asked for."""
    return lambda *args: run(*args)[:-1] if ops.keeps_statistics(step) else run(*args)


@pytest.mark.parametrize("step", ["boundary", *also("gate", "write", "leave", "single_gate", "single_boundary")])
def test_no_formula_runs_for_a_second_derivative(step: str, monkeypatch) -> None:
    tensors, constants = drawn(step)
    expected, _ = penalty(without_statistics(step, getattr(packed, step)), tensors, constants)
    wanted = torch.autograd.grad(expected, tensors, allow_unused=True)
    run = without_statistics(step, getattr(torch.ops.mhc, step))
    torch.autograd.grad(penalty(run, tensors, constants)[0], tensors, allow_unused=True)  # signatures are known now
    for name in (*packed.STEPS, "restore"):
        monkeypatch.setattr(packed, name, None)
    monkeypatch.setattr(coefficients, "tangents", None)
    loss, _ = penalty(run, tensors, constants)
    torch.testing.assert_close(loss, expected)
    for one, other in zip(torch.autograd.grad(loss, tensors, allow_unused=True), wanted, strict=True):
        torch.testing.assert_close(one, other)


@pytest.mark.parametrize("step", ["boundary", *also("leave")])
def test_a_third_derivative_is_that_of_the_formula(step: str) -> None:
    tensors, constants = drawn(step)
    found = []
    for module in (torch.ops.mhc, packed):
        loss, _ = penalty(without_statistics(step, getattr(module, step)), tensors, constants)
        second = torch.autograd.grad(loss, tensors, create_graph=True, allow_unused=True)
        total = sum(g.square().sum() for g in second if g is not None)
        found.append(torch.autograd.grad(total, tensors, allow_unused=True))
    for one, other in zip(*found, strict=True):
        assert (one is None) == (other is None)
        if one is not None:
            torch.testing.assert_close(one, other)
