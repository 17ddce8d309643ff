"""Stages in place of the parts that torchtitan cuts out, in one process: what they run in, and what is refused."""

from __future__ import annotations

import copy

import pytest
import torch
from torch import nn

pytest.importorskip("torchtitan")

from mhc_compile.errors import ParallelError
from mhc_compile.torchtitan import stages
from mhc_compile.torchtitan.stages import check_shares, pipeline_stages
from tests.titan.test_spec import POSITIONS, TOKENS, built, configured, moved

NAMES = ["tok_embeddings", "layers.0", "layers.1", "norm", "lm_head"]


@pytest.fixture(scope="module")
def whole():
    return moved(built(configured().model_spec))


def part_of(whole, own):
    """As torchtitan cuts it out."""
    part = copy.deepcopy(whole)
    for name in ("tok_embeddings", "norm", "lm_head"):
        if name not in own:
            setattr(part, name, None)
    kept = {name: layer for name, layer in part.layers.named_children() if f"layers.{name}" in own}
    part.layers = nn.ModuleDict(kept)
    return part


@pytest.mark.parametrize("training", [True, False], ids=["train", "eval"])
@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
def test_stages_run_in_the_dtype_that_parameters_are_shown_in(whole, dtype, training):
    stage = pipeline_stages(whole, len(TOKENS), torch.bfloat16)
    first, last = (stage(part_of(whole, own)).train(training) for own in (NAMES[:2], NAMES[2:]))
    for model in (first, last):
        for parameter in model.parameters():
            parameter.data = parameter.data.to(dtype)  # as `fully_shard` does
    found = last(first(TOKENS, positions=POSITIONS), positions=POSITIONS)
    expected = whole.train(training)(TOKENS, positions=POSITIONS)
    error = (found.float() - expected).abs().max() / expected.abs().max()
    assert error < (1e-5 if dtype == torch.float32 else 0.05)
    assert found.dtype == dtype


@pytest.mark.parametrize(("dtype", "times"), [(torch.float32, 1), (torch.bfloat16, 2)])
def test_a_stage_is_traced_again_only_for_another_dtype(whole, monkeypatch, dtype, times):
    split, calls = stages._split, []
    monkeypatch.setattr(stages, "_split", lambda *given: calls.append(given) or split(*given))
    pipeline_stages(whole, len(TOKENS), dtype)(part_of(whole, NAMES[:2]))
    assert len(calls) == times


@pytest.mark.parametrize(
    ("shares", "match"),
    [
        ([["tok_embeddings", "layers.1"], ["layers.0", "norm", "lm_head"]], "in this order, each once"),
        ([["tok_embeddings", "layers.0"], ["layers.0", "layers.1", "norm", "lm_head"]], "in this order, each once"),
        ([["tok_embeddings", "layers.0"], ["norm", "lm_head"]], "in this order, each once"),
        ([["tok_embeddings"], ["layers.0", "layers.1", "norm", "lm_head"]], "has no residual connection"),
    ],
)
def test_stages_that_are_no_runs_of_layers_are_refused(whole, shares, match):
    with pytest.raises(ParallelError, match=match):
        check_shares(whole, shares)


def test_a_module_that_would_be_in_no_stage_is_refused(whole):
    model = copy.deepcopy(whole)
    model.vision_encoder = nn.Linear(2, 2)
    with pytest.raises(ParallelError, match="vision_encoder would be in no stage"):
        check_shares(model, [NAMES[:2], NAMES[2:]])
