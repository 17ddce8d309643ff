from __future__ import annotations

import json
from dataclasses import replace
from typing import Any

import pytest
import torch
from torch import Tensor, nn

import mhc_compile
from mhc_compile.cost.devices import GPUS
from mhc_compile.errors import (
    AlreadyTransformedError,
    CaptureError,
    InvalidOptionError,
    MissingInputsError,
    NotAModuleError,
    NothingToTransformError,
)
from tests.toy_models import WIDTH, Tower


@pytest.fixture(scope="module")
def found() -> Any:
    return mhc_compile.estimate(
        Tower(), n=(2, 3, 4), connection=("mhc", "kronecker", "hc-static"), example_inputs=(torch.randn(4, 5, WIDTH),)
    )


def test_there_is_a_row_for_each_pair_that_exists(found) -> None:
    pairs = [(row.n, row.connection) for row in found.rows]
    assert pairs == [
        (2, "mhc"),
        (3, "mhc"),
        (4, "mhc"),
        (2, "kronecker"),
        (4, "kronecker"),
        *((n, "hc-static") for n in (2, 3, 4)),
    ]
    assert "powers of two" in found.notes[0]
    assert found.sites == 3 and found.tokens == 20 and found.dtype == "bfloat16"
    with pytest.raises(KeyError):
        found.row(8)


def test_new_parameters_are_those_of_the_plan(found) -> None:
    plan = mhc_compile.plan(Tower(), n=4, example_inputs=(torch.randn(4, 5, WIDTH),))
    assert found.row(4).parameters.value == plan.parameters
    assert found.plain.parameters.value == sum(p.numel() for p in Tower().parameters())


def test_more_streams_cost_more_and_fusion_costs_less(found) -> None:
    rows = [found.row(n) for n in (2, 3, 4)]
    for name in ("parameters", "flops", "kept", "memory"):
        values = [getattr(row, name).value for row in rows]
        assert values == sorted(set(values))
    for row in rows:
        moved = [scheme.bytes.value for scheme in row.schemes]
        assert moved[0] > moved[1] > moved[2] == moved[3]
        assert row.kept_recomputed.value <= row.kept.value
        assert row.seconds_recomputed.value >= row.ours.seconds.value
    assert found.row(4, "kronecker").kept_recomputed is not None
    other = found.row(4, "hc-static")
    assert other.kept_recomputed is other.memory_recomputed is other.seconds_recomputed is None


def test_an_overhead_is_that_of_its_seconds(found) -> None:
    for row in found.rows:
        for scheme in row.schemes:
            ratio = scheme.seconds.value / found.plain.seconds.value
            assert scheme.overhead.value == pytest.approx(100 * (ratio - 1))


def test_every_figure_has_a_formula_and_the_json_says_that_it_is_an_estimate(found) -> None:
    loaded = json.loads(found.to_json())
    assert loaded["estimate"] is True and loaded["device"]["name"] == "h100"
    figures = [*loaded["plain"].values(), *(v for row in loaded["rows"] for v in row.values() if isinstance(v, dict))]
    assert len(figures) > 20 and all(set(f) == {"value", "unit", "formula"} and f["formula"] for f in figures)
    assert dict(found.formulas())["overhead"]


def test_tokens_set_the_batch() -> None:
    x = torch.randn(4, 5, WIDTH)
    once, more = (mhc_compile.estimate(Tower(), n=4, tokens=tokens, example_inputs=(x,)) for tokens in (None, 200))
    assert (once.tokens, more.tokens) == (20, 200)
    assert more.plain.flops.value == 10 * once.plain.flops.value
    assert more.row(4).flops.value == pytest.approx(10 * once.row(4).flops.value)
    rounded = mhc_compile.estimate(Tower(), n=4, tokens=22, example_inputs=(x,))
    assert rounded.tokens == 20 and any("rounded to a batch of 4" in note for note in rounded.notes)


def test_a_faster_device_takes_less_time() -> None:
    slow = replace(GPUS["h100"], bandwidth=1e6, flops={"float32": 1e9})
    x = torch.randn(4, 5, WIDTH)
    times = [
        mhc_compile.estimate(Tower(), d, n=4, example_inputs=(x,)).row(4).ours.seconds.value for d in (slow, "h100")
    ]
    assert times[0] > 10 * times[1]


def test_it_runs_on_the_meta_device_and_leaves_the_mode() -> None:
    with torch.device("meta"):
        model, x = Tower().eval(), torch.randn(4, 5, WIDTH)
    assert mhc_compile.estimate(model, n=4, example_inputs=(x,)).sites == 3
    assert not any(module.training for module in model.modules())


def test_user_errors_are_named() -> None:
    x = (torch.randn(4, 5, WIDTH),)
    with pytest.raises(InvalidOptionError, match="device 'tpu' is not known"):
        mhc_compile.estimate(Tower(), "tpu", example_inputs=x)
    with pytest.raises(InvalidOptionError, match="tokens=0"):
        mhc_compile.estimate(Tower(), tokens=0, example_inputs=x)
    with pytest.raises(InvalidOptionError, match="powers of two"):
        mhc_compile.estimate(Tower(), n=3, connection="kronecker", example_inputs=x)
    with pytest.raises(MissingInputsError):
        mhc_compile.estimate(Tower())
    with pytest.raises(NotAModuleError):
        mhc_compile.estimate(Tower, example_inputs=x)
    with pytest.raises(AlreadyTransformedError):
        mhc_compile.estimate(mhc_compile.transform(Tower(), example_inputs=x, modes=("train",)), example_inputs=x)
    with pytest.raises(NothingToTransformError):
        mhc_compile.estimate(nn.Linear(WIDTH, WIDTH), example_inputs=x)


def test_code_that_asks_for_values_is_an_error_that_says_so() -> None:
    class Asking(Tower):
        def forward(self, x: Tensor) -> Tensor:
            return super().forward(x) if torch.compiler.is_compiling() or x.sum().item() > 0 else x

    with pytest.raises(CaptureError, match="cannot be counted"):
        mhc_compile.estimate(Asking(), example_inputs=(torch.randn(4, 5, WIDTH),))
