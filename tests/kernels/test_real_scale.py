"""Gradients at real scale, large losses and logits in bf16: finite, and those of fp64."""

from __future__ import annotations

import pytest
import torch
from torch import Tensor

from mhc_compile.kernels.cpu import launch as cpu_launch
from mhc_compile.kernels.operators import streams
from tests.kernels.site_chain import site_parameters
from tests.kernels.step_calls import assert_right, backward_arguments, forward_arguments, run
from tests.tables import also

FUSED = ("mhc", "mhc-lite", "kronecker", "circulant", "identity", "hc")
OUTPUTS, GRADIENTS = 1.5e-2, 5e-2  # of bf16, as maths.md allows; relative to the largest entry
LOGIT = 30.0
B, S, C, n = 2, 5, 33, 4


def decided(bias: Tensor) -> None:
    """Of three logits one far up and one far down; if all were, no gradient would be left to compare."""
    third = torch.arange(bias.numel()) % 3
    bias.copy_(torch.where(third == 0, LOGIT, torch.where(third == 1, -LOGIT, bias)))


@pytest.mark.parametrize("upstream", [1e6, *also(1e4)])
@pytest.mark.parametrize(
    ("connection", "step"),
    [("mhc", "boundary"), ("mhc", "single_boundary"), *also(*((c, "boundary") for c in FUSED if c != "mhc"))],
)
@pytest.mark.parametrize("saturated", [False, True], ids=["open", "decided"])
def test_kernels_are_finite_and_right(connection: str, step: str, upstream: float, saturated: bool) -> None:
    arguments = forward_arguments(step, n, "last", dtype=torch.bfloat16, connection=connection)
    if saturated:
        decided(arguments[-4])
    assert_right(cpu_launch, step, arguments, OUTPUTS)
    incoming = 2 if step == "boundary" else 3
    given = backward_arguments(step, arguments)
    given = (*(g * upstream for g in given[: incoming + 1]), *given[incoming + 1 :])
    assert all(t.isfinite().all() for t in run(cpu_launch, f"{step}_backward", given).values())
    assert_right(cpu_launch, f"{step}_backward", given, GRADIENTS)


def one_site(connection: str, tensors: list[Tensor], upstream: float, *, compiled: bool) -> list[Tensor]:
    """What one site makes of streams and a branch, and the gradients of all that goes in."""

    def site(X: Tensor, y: Tensor, *params: Tensor) -> Tensor:
        pre, post, R = streams.coefficients(X, params, connection=connection, axis=2)
        return streams.write(X, y * streams.read(X, pre), post, R)

    leaves = [t.clone().requires_grad_() for t in tensors]
    out = (torch.compile(site, fullgraph=True) if compiled else site)(*leaves)
    return [out, *torch.autograd.grad(out, leaves, torch.full_like(out, upstream))]


@pytest.mark.parametrize("upstream", [1e6, *also(1e4)])
@pytest.mark.parametrize(
    ("connection", "compiled"),
    [
        *((name, False) for name in ("hc", "hc-static", "gated", "mhc-lite", "kronecker", "circulant", "identity")),
        *also(*((name, True) for name in ("mhc", "mhc-lite", "kronecker", "circulant", "identity", "hc", "gated"))),
    ],
)
def test_sites_in_plain_pytorch_are_finite_and_right(connection: str, compiled: bool, upstream: float) -> None:
    generator = torch.Generator().manual_seed(0)
    values = site_parameters(connection, n, C, dtype=torch.float32, init="random", generator=generator)
    if "bias" in values:
        decided(values["bias"])
    X, y = (torch.randn(*shape, generator=generator).bfloat16() for shape in ((n, B, S, C), (B, S, C)))
    found = one_site(connection, [X, y, *values.values()], upstream, compiled=compiled)
    exact = one_site(connection, [t.double() for t in (X, y, *values.values())], upstream, compiled=False)
    for i, (ours, theirs) in enumerate(zip(found, exact, strict=True)):
        assert ours.isfinite().all(), i
        error = (ours.double() - theirs).abs().max() / theirs.abs().max().clamp_min(1e-30)
        assert error <= (GRADIENTS if i else OUTPUTS), f"result {i} is off by {error:.1e}"
