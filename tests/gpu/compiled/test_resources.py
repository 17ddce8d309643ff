"""What the compilers make of the default configuration, without a GPU."""

import pytest
import torch

from tests.gpu.compiled.resources import EVERY_STEP, rows
from tests.tables import also

PROJECTING = {
    "gate_coefficients_kernel",
    "boundary_coefficients_kernel",
    "gate_backward_kernel",
    "boundary_backward_kernel",
    "gate_products_kernel",
    "boundary_products_kernel",
    "single_gate_kernel",
    "single_boundary_kernel",
    "single_gate_backward_kernel",
    "single_boundary_backward_kernel",
}

GATED = ("gate", "boundary", "gate_backward", "boundary_backward")
SHARED_MEMORY = {"sm_80": 163 << 10, "gfx942": 64 << 10}
"""Bytes that a program may have; newer devices have more."""


@pytest.mark.slow
@pytest.mark.parametrize(
    ("target", "steps"),  # the largest kernel with a projection is the first of a boundary
    [
        ("sm_90", ("boundary",)),
        *also(*((target, EVERY_STEP) for target in ("sm_90", "sm_80", "sm_100", "gfx942"))),
    ],
    ids=lambda value: value if isinstance(value, str) else f"{len(value)} steps",
)
def test_no_kernel_spills_and_every_projection_uses_tensor_cores(target: str, steps: tuple[str, ...]) -> None:
    found = list(rows([target], 4, [1024], torch.bfloat16, steps))
    assert [row for row in found if row.spills] == []
    assert {row.kernel for row in found if row.tensor_cores} == PROJECTING & {row.kernel for row in found}


@pytest.mark.exhaustive
@pytest.mark.parametrize(("n", "steps"), [(4, EVERY_STEP), (8, ("gate", "gate_backward"))])  # the rest takes minutes
@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float32])
@pytest.mark.parametrize("target", SHARED_MEMORY)
def test_shared_memory_fits_the_device(target: str, dtype: torch.dtype, n: int, steps: tuple[str, ...]) -> None:
    found = rows([target], n, [1024], dtype, steps)
    assert [row for row in found if row.shared > SHARED_MEMORY[target]] == []


BOUNDARY = ("boundary", "boundary_backward")


@pytest.mark.exhaustive
@pytest.mark.parametrize(
    ("connection", "steps"), [("mhc", (*BOUNDARY, "single_boundary", "single_boundary_backward")), ("hc", BOUNDARY)]
)
def test_wide_models_do_not_spill(connection: str, steps: tuple[str, ...]) -> None:
    found = rows(["sm_90"], 4, [4096], torch.bfloat16, steps, connection=connection)
    assert [row for row in found if row.spills] == []


@pytest.mark.slow
@pytest.mark.parametrize(
    ("target", "steps"),  # the gate is the least that has every function of these norms in its forward
    [("sm_90", ("gate",)), *also(*((target, GATED) for target in ("sm_90", "sm_80", "sm_100", "gfx942")))],
    ids=lambda value: value if isinstance(value, str) else f"{len(value)} steps",
)
def test_no_kernel_of_hyper_connections_spills_more_than_two_registers(target: str, steps: tuple[str, ...]) -> None:
    found = list(rows([target], 4, [1024], torch.bfloat16, steps, connection="hc"))
    assert [row for row in found if row.spills > 8] == []
    assert {row.kernel for row in found if row.tensor_cores} == PROJECTING & {row.kernel for row in found}
