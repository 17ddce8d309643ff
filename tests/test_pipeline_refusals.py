"""Where a model cannot be cut, and calls that a stage was not traced for: each error says what to write."""

from __future__ import annotations

import pytest
import torch
from torch import nn

import mhc_compile
from mhc_compile import errors, pipeline
from tests.toy_models import WIDTH, Block, Tower

X = torch.randn(2, 3, WIDTH, generator=torch.Generator().manual_seed(0))


class Counting(nn.Module):
    """Both halves use a buffer, and the second changes it."""

    def __init__(self) -> None:
        super().__init__()
        self.first, self.second = Block(), Block()
        self.register_buffer("average", torch.zeros(WIDTH))

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        x = self.first(x + self.average)
        x = self.second(x)
        self.average.add_(1.0)
        return x


def transformed(model: nn.Module) -> nn.Module:
    return mhc_compile.transform(model, example_inputs=(X,), modes=("train",))


def split(model: nn.Module, at: object) -> list[pipeline.Stage]:
    return pipeline.split(model, at, example_inputs=(X,), modes=("train",))  # type: ignore[arg-type]


@pytest.fixture(scope="module")
def blocks() -> nn.Module:
    return transformed(nn.Sequential(Block(), Block(), Block()))


@pytest.mark.parametrize(("at", "error", "match"), [
    ("7", errors.UnknownCutError, r"no module called '7' computes anything.*for example 0"),
    (("2", "1"), errors.CutOrderError, r"run in another order: write at=\['1', '2'\]"),
    (("1", "1"), errors.CutOrderError, r"1 and 1 begin at the same place: write at=\['1'\]"),
    (("1", "1.norm", "2"), errors.CutOrderError, r"1 and 1\.norm begin at the same place: write at=\['1', '2'\]"),
    ("0", errors.CutOrderError, "nothing is computed before 0"),
    ((), errors.CutOrderError, "at is empty"),
    ("1.down", errors.BranchCutError, r"'1\.down' lies inside the branch of the .* connection 1.*write '1' or '2"),
    ((1,), errors.InvalidOptionError, r"at=\['blocks.6'\]"),
], ids=["unknown", "order", "twice", "inside", "nothing before", "empty", "branch", "no name"])  # fmt: skip
def test_a_cut_that_cannot_be_made_is_refused(
    blocks: nn.Module, at: object, error: type[Exception], match: str
) -> None:
    with pytest.raises(error, match=match):
        split(blocks, at)


def test_a_weight_of_two_stages_is_refused() -> None:
    with pytest.raises(errors.SharedParameterError, match=r"stem\.weight \(also called head\.weight\).*stages 0 and 1"):
        split(transformed(Tower()), "blocks.1")


def test_a_buffer_that_a_later_stage_changes_is_refused() -> None:
    with pytest.raises(errors.SharedWriteError, match=r"average is changed in place in stage 1.*stage 0"):
        split(transformed(Counting()), "second")


def test_a_plain_model_is_refused() -> None:
    with pytest.raises(errors.NotTransformedError, match=r"pipeline\.split\(mhc_compile\.transform\(model"):
        split(nn.Sequential(Block(), Block()), "1")


def test_a_stage_says_what_it_takes(blocks: nn.Module) -> None:
    first, second = split(blocks, "1")
    with pytest.raises(errors.StageCallError, match="stage 0 was not traced for"):
        first(X.double())
    with pytest.raises(errors.StageCallError, match=r"stage 1 takes what stage 0 returns \(\w+\)"):
        second(first(X), X)
    torch.testing.assert_close(second(first(X)), blocks(X), rtol=0, atol=0)
