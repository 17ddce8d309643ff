"""In half precision each result is rounded once: what a tolerance of one per cent would not tell."""

from __future__ import annotations

from types import ModuleType

import pytest
import torch

from mhc_compile.kernels.cpu import launch as cpu_launch
from mhc_compile.kernels.formulas import packed, reference
from tests.kernels.step_calls import (
    assert_next_site_reads_what_is_stored,
    assert_rounded_once,
    backward_arguments,
    exactly,
    forward_arguments,
    run,
)
from tests.kernels.step_inputs import step_inputs

DTYPE = torch.bfloat16


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
@pytest.mark.parametrize("step", ["gate", "write", "leave"])  # for a boundary see below
@pytest.mark.parametrize("implementation", [packed, cpu_launch], ids=["formulas", "C++"])
def test_a_step_and_its_backward_round_once(implementation: ModuleType, step: str, layout: str) -> None:
    arguments = forward_arguments(step, 4, layout, dtype=DTYPE)
    assert_rounded_once(run(implementation, step, arguments), exactly(step, arguments))
    arguments = backward_arguments(step, arguments)
    assert_rounded_once(run(implementation, f"{step}_backward", arguments), exactly(f"{step}_backward", arguments))


@pytest.mark.parametrize("layout", ["last", "first"])
@pytest.mark.parametrize("implementation", [packed, cpu_launch], ids=["formulas", "C++"])
def test_the_next_site_reads_the_streams_as_they_are_stored(implementation: ModuleType, layout: str) -> None:
    assert_next_site_reads_what_is_stored(implementation, forward_arguments("boundary", 4, layout, dtype=DTYPE))
