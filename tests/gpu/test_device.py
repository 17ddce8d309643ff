"""On a real GPU: the compiled model computes what eager fp64 does, and its memory stays its own."""

from __future__ import annotations

import copy

import pytest
import torch

from tests.gpu import models

pytestmark = pytest.mark.skipif(not torch.cuda.is_available(), reason="needs a GPU")
TOLERANCE = 1e-4  # relative to the largest value, fp32


@pytest.mark.slow
@pytest.mark.parametrize("mode", [None, "reduce-overhead"])
@pytest.mark.parametrize("case", models.CASES)
def test_a_compiled_model_computes_output_and_every_gradient(case: str, mode: str | None) -> None:
    model, (x,) = models.CASES[case]()
    exact, model, x = copy.deepcopy(model).double(), model.cuda(), x.cuda()
    compiled = torch.compile(model, mode=mode)
    for _ in range(3):  # CUDA graphs are recorded in the second call and replayed in the third
        model.zero_grad(set_to_none=True)
        output = compiled(x)
        grad = torch.linspace(-1, 1, output.numel(), device="cuda").view_as(output)
        output.backward(grad)
    expected = exact(x.cpu().double())
    expected.backward(grad.cpu().double())
    assert_close(output, expected)
    for parameter, reference in zip(model.parameters(), exact.parameters(), strict=True):
        assert_close(parameter.grad, reference.grad)


def assert_close(found: torch.Tensor | None, expected: torch.Tensor | None) -> None:
    assert found is not None and expected is not None
    assert (found.detach().cpu().double() - expected).abs().max() <= TOLERANCE * expected.abs().max()
