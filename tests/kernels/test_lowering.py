"""What `torch.compile` makes of the fused steps on the CPU."""

from __future__ import annotations

import logging
import re
from collections.abc import Callable
from typing import Any

import pytest
import torch
from torch import Tensor
from torch._inductor.utils import run_and_get_code

from mhc_compile.kernels.formulas import packed
from mhc_compile.kernels.inductor import lowerings as inductor
from mhc_compile.kernels.operators import ops
from tests.kernels.step_inputs import step_inputs
from tests.tables import also

TOLERANCE = 2e-5  # relative to the largest entry, fp32


def chain(X: Tensor, y: Tensor, mix: Tensor, params: tuple[Tensor, ...], n: int, axis: int, steps: Any = ops) -> Tensor:
    """All four steps, with operators of PyTorch between them."""
    given = (params,) if steps is ops else params
    constants: Any = {"n": n, "axis": axis}
    u, first, *_ = steps.gate(X, *given, **constants)
    X = steps.write(X, u.tanh(), mix, **constants)
    X, u, second, _ = steps.boundary(X, y + u, first, *given, **constants)
    return steps.leave(X, u * 2, second, **constants, scale=1 / n).sigmoid()


def short(X: Tensor, y: Tensor, mix: Tensor, params: tuple[Tensor, ...], n: int, axis: int, steps: Any = ops) -> Tensor:
    """Two of them: Inductor compiles each."""
    given = (params,) if steps is ops else params
    X, u, second, _ = steps.boundary(X, y, mix, *given, n=n, axis=axis)
    return steps.leave(X, u * 2, second, n=n, axis=axis, scale=1 / n).sigmoid()


def gradients(function: Callable[..., Tensor], data: Any, dtype: torch.dtype, steps: Any) -> list[Tensor]:
    X, y, mix, *params = (t.to(dtype).requires_grad_() for t in (data.X, data.y, data.mix, *data.params))
    out = function(X, y, mix, tuple(params), X.shape[0], data.axis, steps)
    weights = torch.linspace(-1, 1, out.numel(), dtype=dtype).view_as(out)
    return [out, *torch.autograd.grad(out, (X, y, mix, *params), weights)]


def assert_close(found: list[Tensor], expected: list[Tensor], tolerance: float = TOLERANCE) -> None:
    for i, (ours, theirs) in enumerate(zip(found, expected, strict=True)):
        error = (ours.double() - theirs).abs().max() / theirs.abs().max()
        assert error <= tolerance, f"result {i} is off by {error:.1e}"


@pytest.fixture(autouse=True)
def fresh_compiler() -> None:
    torch._dynamo.reset()


@pytest.mark.slow
@pytest.mark.parametrize("layout", ["first", *also("last")])  # the next test has the channels last
def test_a_compiled_chain_computes_what_the_formulas_say_with_the_kernels_in_its_program(layout: str) -> None:
    data = step_inputs(4, layout)
    found, (forward, backward) = run_and_get_code(
        lambda: gradients(torch.compile(chain, fullgraph=True), data, torch.float32, ops)
    )
    assert_close(found, gradients(chain, data, torch.float64, packed))
    for source, steps in ((forward, ("gate", "write", "boundary", "leave")), (backward, ("gate", "boundary", "leave"))):
        assert "torch.ops.mhc" not in source
        for step in steps:
            name = f"mhc_{step}" if source is forward else f"mhc_{step}_backward"
            assert len(re.findall(rf"^    +{name}_\d+\(", source, re.MULTILINE)) == 1, name


@pytest.mark.slow
def test_another_number_of_tokens_needs_no_other_program() -> None:
    compiled = torch.compile(short, fullgraph=True, dynamic=True)
    for tokens in (5, 70):
        data = step_inputs(4, ((2, tokens, 24), 2))
        with torch._dynamo.config.patch(error_on_recompile=tokens != 5):
            found = gradients(compiled, data, torch.float32, ops)
        assert_close(found, gradients(short, data, torch.float64, packed))


@pytest.mark.slow
def test_an_uncovered_case_runs_as_an_operator_and_the_reason_is_logged_once(caplog: pytest.LogCaptureFixture) -> None:
    inductor._log_once.cache_clear()
    data = step_inputs(1, "tiny")

    def twice(X: Tensor, y: Tensor, mix: Tensor) -> Tensor:
        X = ops.write(X, y, mix, n=1, axis=2)
        return ops.write(X, y, mix, n=1, axis=2)

    uncached = torch._inductor.config.patch(force_disable_caches=True)
    with caplog.at_level(logging.INFO, logger="mhc_compile"), uncached:
        found = torch.compile(twice)(data.X, data.y, data.mix)
    torch.testing.assert_close(found, twice(data.X, data.y, data.mix))
    reasons = [r.message for r in caplog.records if "mhc::write is not lowered" in r.message]
    assert reasons == ["mhc::write is not lowered and runs as an operator: the C++ kernels cover 2 to 8 streams, not 1"]


@pytest.mark.slow
def test_strides_of_the_inputs_do_not_matter() -> None:
    data = step_inputs(4, ((6, 10), 1))
    X = data.X.transpose(1, 2).contiguous().transpose(1, 2)
    y = data.y[:1].expand_as(data.y)
    found = torch.compile(chain)(X, y, data.mix, data.params, 4, 1)
    torch.testing.assert_close(found, chain(data.X, y.contiguous(), data.mix, data.params, 4, 1), rtol=1e-5, atol=1e-6)


def single_chain(
    X: Tensor, y: Tensor, mix: Tensor, params: tuple[Tensor, ...], n: int, axis: int, steps: Any = ops
) -> Tensor:
    """The steps of single-pass connections, one of them with another projection."""
    given = (params,) if steps is ops else params
    constants: Any = {"n": n, "axis": axis, "connection": "identity"}
    pre, first, _ = steps.single_gate(X, *given, **constants)
    X, u, _, second, _ = steps.single_boundary(X, y, first, pre, *given, **constants)
    return steps.leave(X, u * 2, second + mix, n=n, axis=axis, scale=1 / n).sigmoid()


@pytest.mark.slow
@pytest.mark.exhaustive  # how a step is lowered does not depend on which it is
def test_single_pass_and_other_projections_have_their_kernels_in_the_program() -> None:
    data = step_inputs(4, "last", connection="identity")
    found, (forward, backward) = run_and_get_code(
        lambda: gradients(torch.compile(single_chain, fullgraph=True), data, torch.float32, ops)
    )
    assert_close(found, gradients(single_chain, data, torch.float64, packed))
    for source, ending in ((forward, ""), (backward, "_backward")):
        assert "torch.ops.mhc" not in source
        for step in ("single_gate", "single_boundary"):
            assert len(re.findall(rf"^    +mhc_{step}{ending}_\d+\(", source, re.MULTILINE)) == 1, step
