"""In half precision each result is rounded once: what a tolerance of one per cent would not tell."""

from __future__ import annotations

from collections.abc import Mapping
from types import ModuleType

import pytest
import torch
from torch import Tensor

from mhc_compile.kernels import cpu_launch, packed, reference
from tests.kernels.step_calls import backward_arguments, exactly, forward_arguments, run
from tests.kernels.step_inputs import step_inputs

DTYPE = torch.bfloat16
ROUNDED = 0.5 * torch.finfo(DTYPE).eps  # of a number just above a power of two
SLACK = 1e-4  # sums in fp32, of terms that cancel


def assert_rounded_once(found: Mapping[str, Tensor], expected: Mapping[str, Tensor]) -> None:
    for name, value in found.items():
        exact = expected[name]
        if value.dtype == DTYPE:
            bound = ROUNDED * exact.abs() + SLACK
        else:
            bound = torch.full_like(exact, SLACK * float(exact.abs().max()))
        error = (value.double() - exact).abs()
        assert bool((error <= bound).all()), f"{name}: {float((error / bound).max()):.1f} times one rounding"


@pytest.mark.parametrize("equal", [False, True], ids=["streams", "entry"])
def test_the_formulas_of_reference_round_once(equal: bool) -> None:
    data = step_inputs(4, "last", equal=equal, dtype=DTYPE)
    X, y = data.X.expand(4, *data.X.shape[1:]), data.y
    post, R = torch.rand(4, 3, 7, 1), torch.rand(4, 4, 3, 7, 1)
    found = {"read": reference.read(X, post), "write": reference.write(X, y, post, R)}
    wide, post, R = X.double(), post.double(), R.double()
    exact = {"read": reference.read(wide, post), "write": reference.write(wide, y.double(), post, R)}
    assert_rounded_once(found, exact)


@pytest.mark.parametrize("layout", ["last", "first"])
@pytest.mark.parametrize("step", ["gate", "write", "leave"])  # a boundary reads the streams that it has rounded
@pytest.mark.parametrize("implementation", [packed, cpu_launch], ids=["formulas", "C++"])
def test_a_step_and_its_backward_round_once(implementation: ModuleType, step: str, layout: str) -> None:
    arguments = forward_arguments(step, 4, layout, dtype=DTYPE)
    assert_rounded_once(run(implementation, step, arguments), exactly(step, arguments))
    arguments = backward_arguments(step, arguments)
    assert_rounded_once(run(implementation, f"{step}_backward", arguments), exactly(f"{step}_backward", arguments))
