"""Models of Transformers, transformed: activation checkpointing of their layers."""

from __future__ import annotations

import copy

import pytest
import torch
from accelerate import Accelerator

import mhc_compile
from examples.hf_llama import tiny_llama, tokens

BATCH = tokens(2, 24)


@pytest.mark.parametrize("when", ["before", "after"])
def test_layers_are_recomputed_whenever_gradient_checkpointing_is_on(when):
    torch.manual_seed(0)
    model = tiny_llama().train()
    plain = copy.deepcopy(model)
    if when == "before":
        model.gradient_checkpointing_enable()
    hyper = mhc_compile.transform(model, n=4, example_kwargs=BATCH, modes=("train",))
    if when == "after":
        hyper.gradient_checkpointing_enable()
    assert len(hyper.mhc_plan.sites) == 4
    runs = []
    hyper.model.layers[0].self_attn.q_proj.register_forward_hook(lambda *_: runs.append(1))
    hyper(**BATCH).loss.backward()
    assert len(runs) == 2  # once more in the backward
    plain(**BATCH).loss.backward()
    for name, parameter in plain.named_parameters():
        torch.testing.assert_close(hyper.get_parameter(name).grad, parameter.grad, rtol=0, atol=1e-5, msg=name)
    hyper.gradient_checkpointing_disable()
    hyper(**BATCH).loss.backward()
    assert len(runs) == 3 and len(hyper._mhc.programs) == 1


def test_a_forward_under_autocast_that_accelerate_sets_is_kept_and_never_traced():
    torch.manual_seed(0)
    hyper = mhc_compile.transform(tiny_llama().train(), n=4, example_kwargs=BATCH, modes=("train",))
    prepared = Accelerator(mixed_precision="bf16", cpu=True).prepare(hyper)
    seen = []
    prepared.model.layers[0].mlp.register_forward_hook(lambda module, inputs, output: seen.append(output.dtype))
    prepared(**BATCH).loss.backward()
    prepared(input_ids=BATCH["input_ids"])  # a call of a new kind, traced now
    assert seen == [torch.bfloat16, torch.bfloat16] and len(hyper._mhc.programs) == 2
    assert "forward" not in vars(mhc_compile.revert(prepared))
