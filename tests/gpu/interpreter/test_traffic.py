"""Bytes are counted as they are, and the boundary step keeps to its budgets."""

import pytest
import torch
import triton
import triton.language as tl

from benchmarks.traffic import budget, measure
from tests.gpu.traffic import counted
from tests.tables import also

TOKENS = 16


@triton.jit
def add_to_all(x, row, out, size, BLOCK: tl.constexpr):
    """Every program reads the whole `row` and its own part of `x`."""
    at = tl.program_id(0) * BLOCK + tl.arange(0, BLOCK)
    total = tl.sum(tl.load(row + tl.arange(0, BLOCK)).to(tl.float32))
    tl.store(out + at, tl.load(x + at, mask=at < size, other=0.0) + total, mask=at < size)


def test_masked_elements_cost_nothing_and_shared_ones_count_once_as_unique() -> None:
    x, row, out = torch.ones(100), torch.ones(16, dtype=torch.bfloat16), torch.empty(100)
    with counted({100: "wide", 16: "narrow"}, (x, row, out)) as traffic:
        add_to_all[(7,)](x, row, out, 100, BLOCK=16)
    assert [launch.kernel for launch in traffic.launches] == ["add_to_all"]
    assert out.unique().tolist() == [17.0]
    assert traffic.issued() == {"wide": 2 * 100 * 4, "narrow": 7 * 16 * 2, "other": 0}
    assert traffic.unique() == traffic.unique_per_kernel() == {"wide": 2 * 100 * 4, "narrow": 16 * 2, "other": 0}


def test_what_two_kernels_read_is_unique_once_and_once_for_each() -> None:
    x, row, out = torch.ones(16), torch.ones(16), torch.empty(16)
    with counted({}, ()) as traffic:
        for _ in range(2):
            add_to_all[(1,)](x, row, out, 16, BLOCK=16)
    assert traffic.unique() == {"other": 3 * 64}
    assert traffic.unique_per_kernel() == {"other": 2 * 3 * 64}


@pytest.mark.parametrize(
    ("channels", "dtype"), [(256, torch.bfloat16), *also((1024, torch.bfloat16), (1024, torch.float32))]
)
def test_a_boundary_keeps_to_its_budgets(channels: int, dtype: torch.dtype) -> None:
    found = measure("ours", 4, channels, TOKENS, dtype)
    for way in ("forward", "backward"):
        for kind, limit in budget(4, way).items():
            assert 0 < found[way][kind]["streams"] <= limit
    assert found["forward"]["unique"]["streams"] == 2 * 4 + 2
    assert found["backward"]["unique"]["streams"] == 3 * 4 + 3
    assert len(found["forward"]["launches"]) == 2
    assert len(found["backward"]["launches"]) == 4


@pytest.mark.parametrize("channels", [256, *also(1024)])
def test_a_boundary_of_single_pass_reads_its_streams_once(channels: int) -> None:
    found = measure("single-pass", 4, channels, TOKENS, torch.bfloat16)
    assert found["forward"]["issued"]["streams"] == found["forward"]["unique"]["streams"] == 2 * 4 + 2
    assert found["backward"]["unique"]["streams"] == 3 * 4 + 3
    assert found["backward"]["issued"]["streams"] <= 21
    assert (len(found["forward"]["launches"]), len(found["backward"]["launches"])) == (1, 3)
