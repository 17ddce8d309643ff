"""Small models that are saved, and what it means that one comes back the same."""

from __future__ import annotations

import torch
from transformers import (
    BertConfig,
    BertForMaskedLM,
    LlamaConfig,
    LlamaForCausalLM,
    MixtralConfig,
    MixtralForCausalLM,
    Qwen3Config,
    Qwen3ForCausalLM,
    T5Config,
    T5ForConditionalGeneration,
)

import mhc_compile

IDS = torch.arange(18).reshape(2, 9)


BATCH = {"input_ids": IDS}


SIZES = {"vocab_size": 64, "hidden_size": 32, "intermediate_size": 32, "num_hidden_layers": 1, "num_attention_heads": 4}


def small_llama(**sizes):
    """A Llama of one layer: what is saved and loaded does not ask how many there are, and each is traced in seconds."""
    torch.manual_seed(0)
    return LlamaForCausalLM(LlamaConfig(**{**SIZES, **sizes}, num_key_value_heads=2, use_cache=False))


@torch.no_grad()  # with gradients, a model that asks for the mode is traced for both
def moved(model, **options):
    """Transformed, with hyper-connections that matter."""
    kwargs = {"n": 2, "modes": ("eval",), "example_kwargs": BATCH, **options}
    hyper = mhc_compile.transform(model.eval(), **kwargs)
    torch.manual_seed(0)
    for parameter in hyper.hyper_connections.parameters():
        parameter += 0.3 * torch.randn_like(parameter)
    return hyper


def same(one, other):
    """Plans, options and every tensor of the state are equal: then all calls are, and none has to be traced."""
    state, known = one.state_dict(), other.state_dict()
    return (
        (one._mhc.plans, one._mhc.config) == (other._mhc.plans, other._mhc.config)
        and state.keys() == known.keys()
        and all(torch.equal(state[name], known[name]) and state[name].dtype == known[name].dtype for name in known)
    )


def t5():
    return T5ForConditionalGeneration(T5Config(vocab_size=64, d_model=16, d_kv=4, d_ff=32, num_layers=1, num_heads=2))


FAMILIES = {
    "bert": (lambda: BertForMaskedLM(BertConfig(**SIZES)), BATCH),
    "qwen3": (
        lambda: Qwen3ForCausalLM(Qwen3Config(**SIZES, num_key_value_heads=2, head_dim=8, use_cache=False)),
        BATCH,
    ),
    "mixtral": (  # the library has other names for its weights in files
        lambda: MixtralForCausalLM(
            MixtralConfig(**{**SIZES, "num_hidden_layers": 1}, num_key_value_heads=2, num_local_experts=2)
        ),
        {**BATCH, "use_cache": False},
    ),
    "t5": (t5, {**BATCH, "decoder_input_ids": IDS[:, :3], "use_cache": False}),
}
