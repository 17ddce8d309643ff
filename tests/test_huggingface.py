"""Models of Transformers, transformed: activation checkpointing of their layers."""

from __future__ import annotations

import copy

import pytest
import torch
from accelerate import Accelerator
from accelerate.state import AcceleratorState
from transformers import LlamaForCausalLM

import mhc_compile
from examples import hf_trainer
from examples.hf_llama import tiny_llama, tokens
from mhc_compile.capture.inputs import resolve_inputs
from tests.zoo.build import build
from tests.zoo.generators import build_generator

BATCH = tokens(2, 24)


@pytest.mark.parametrize("when", ["before", "after"])
def test_layers_are_recomputed_whenever_gradient_checkpointing_is_on(when):
    torch.manual_seed(0)
    model = tiny_llama(layers=1).train()
    plain = copy.deepcopy(model)
    if when == "before":
        model.gradient_checkpointing_enable()
    hyper = mhc_compile.transform(model, n=4, example_kwargs=BATCH, modes=("train",))
    if when == "after":
        hyper.gradient_checkpointing_enable()
    assert len(hyper.mhc_plan.sites) == 2
    runs = []
    hyper.model.layers[0].self_attn.q_proj.register_forward_hook(lambda *_: runs.append(1))
    hyper(**BATCH).loss.backward()
    assert len(runs) == 2  # once more in the backward
    plain(**BATCH).loss.backward()
    for name, parameter in plain.named_parameters():
        torch.testing.assert_close(hyper.get_parameter(name).grad, parameter.grad, rtol=0, atol=1e-5, msg=name)
    hyper.gradient_checkpointing_disable()
    hyper(**BATCH).loss.backward()
    assert len(runs) == 3 and len(hyper._mhc.programs) == 2  # one with recomputation, one without


def test_embeddings_that_are_made_to_require_gradients_stay_in_one_graph():
    """PEFT's recipe for checkpointing below frozen embeddings: `enable_input_require_grads` sets a hook on them."""
    model = tiny_llama().train()
    model.gradient_checkpointing_enable()
    model.enable_input_require_grads()
    for parameter in model.parameters():
        parameter.requires_grad_(False)
    hyper = mhc_compile.transform(model, n=4, example_kwargs=BATCH, modes=("train",))
    assert not hyper.mhc_plan.notes and len(hyper._mhc.programs) == 1
    hyper.model.layers[0].requires_grad_(True)  # after the trace
    hyper(**BATCH).loss.backward()
    assert all(parameter.grad is not None for parameter in hyper.model.layers[0].parameters())


@pytest.fixture
def accelerate_anew():
    """Its settings are those of the process: what other tests asked for must not be there, nor stay."""
    AcceleratorState._reset_state(reset_partial_state=True)
    yield
    AcceleratorState._reset_state(reset_partial_state=True)


@pytest.mark.usefixtures("accelerate_anew")
def test_a_forward_under_autocast_that_accelerate_sets_is_kept_and_never_traced():
    torch.manual_seed(0)
    hyper = mhc_compile.transform(tiny_llama(layers=1).train(), n=4, example_kwargs=BATCH, modes=("train",))
    prepared = Accelerator(mixed_precision="bf16", cpu=True).prepare(hyper)
    seen = []
    prepared.model.layers[0].mlp.register_forward_hook(lambda module, inputs, output: seen.append(output.dtype))
    prepared(**BATCH).loss.backward()
    prepared(input_ids=BATCH["input_ids"])  # a call of a new kind, traced now
    assert seen == [torch.bfloat16, torch.bfloat16] and len(hyper._mhc.programs) == 2
    assert "forward" not in vars(mhc_compile.revert(prepared))


@pytest.mark.exhaustive  # `pretrained/` loads shards and tied weights, `examples/hf_trainer.py` a Llama
@pytest.mark.parametrize("tied", [True, False])
def test_what_save_pretrained_wrote_is_loaded(tied, tmp_path):
    config = tiny_llama().config
    config.tie_word_embeddings = tied
    hyper = hf_trainer.transformed(LlamaForCausalLM(config)).eval()
    with torch.no_grad():
        for parameter in hyper.parameters():
            parameter += 0.02 * torch.randn_like(parameter)
    hyper.save_pretrained(tmp_path, max_shard_size="20KB")
    assert len(list(tmp_path.glob("*.safetensors"))) > 1
    restored = mhc_compile.from_pretrained(tmp_path)
    assert (restored.lm_head.weight is restored.model.embed_tokens.weight) == tied
    assert torch.equal(restored(**BATCH).logits, hyper(**BATCH).logits)


@pytest.mark.parametrize("target", ["hf:whisper", "hf:prophetnet", "hf:pegasus_x"])
def test_declared_inputs_of_encoder_decoders_are_enough_to_call_them(target):
    """Transformers declares tokens for the encoder of all of them."""
    model = build_generator(target).model
    inputs = resolve_inputs(model, None, None)
    assert "use_cache" not in inputs.kwargs
    assert model(**inputs.kwargs).logits.isfinite().all()


def test_inputs_of_models_of_images_come_from_their_configuration():
    model = build("hf:vit")[0]
    assert list(resolve_inputs(model, None, None).kwargs) == ["pixel_values"]
