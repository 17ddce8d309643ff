from __future__ import annotations

import pytest

from mhc_compile.cost.traffic import (
    BOUNDARY_H100,
    SLOWDOWN_GPU,
    boundary,
    kept_units,
    lifted_traffic,
    one_kernel_per_formula,
    papers_kernels,
    restoring_units,
    step_traffic,
)
from mhc_compile.passes.plan.steps import StepKind


def test_the_formulas_are_those_of_the_documents() -> None:
    assert (boundary(4).forward, boundary(4).backward) == (10, 15)
    assert one_kernel_per_formula(4).forward == 34 and papers_kernels(4).forward == 18
    assert step_traffic(StepKind.LEAVE, 4).forward == 6 and step_traffic(StepKind.WRITE, 4).forward == 9


@pytest.mark.parametrize("n", [1, 2, 4, 8])
def test_a_boundary_saves_the_streams_between_a_write_and_a_gate(n: int) -> None:
    apart = step_traffic(StepKind.WRITE, n).forward + step_traffic(StepKind.GATE, n).forward
    assert boundary(n).forward == apart - n
    assert one_kernel_per_formula(n).total > papers_kernels(n).total > boundary(n).total


def test_one_stream_is_read_where_all_are_equal() -> None:
    assert step_traffic(StepKind.BOUNDARY, 8, entry=True).forward == 8 + 3
    assert step_traffic(StepKind.BOUNDARY, 1, entry=True).forward == boundary(1).forward


def test_every_kind_of_step_has_traffic_and_a_slowdown() -> None:
    for kind in StepKind:
        assert step_traffic(kind, 4).total > 0 and SLOWDOWN_GPU[kind].forward >= 1
    assert boundary(4).times(SLOWDOWN_GPU[StepKind.BOUNDARY]) == BOUNDARY_H100


def test_restoring_and_keeping() -> None:
    assert restoring_units(4, 1) == 0 and restoring_units(4, 3) == (9 + 10) / 3
    assert kept_units(4, 1) == 5 and kept_units(4, 4) == 2
    assert lifted_traffic(1).total == 0
