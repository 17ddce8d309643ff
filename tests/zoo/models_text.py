"""Text models of x-transformers and litgpt, tiny."""

from __future__ import annotations

from typing import Any

import torch

from tests.zoo.model import Model, Part

VOCABULARY, LENGTH, WIDTH = 160, 16, 64


def tokens(length: int = LENGTH) -> torch.Tensor:
    """Token ids (B, L)."""
    return torch.randint(0, VOCABULARY, (2, length))


def _x_transformer(layers: str, **config: Any) -> Model:
    config = {"dim": WIDTH, "depth": 2, "heads": 4, "attn_dim_head": 16, **config}
    given = {"num_tokens": VOCABULARY, "max_seq_len": LENGTH, "attn_layers": Part(f"x_transformers:{layers}", config)}
    return Model("x_transformers:TransformerWrapper", lambda: (tokens(),), given)


_PICTURE = {
    "image_size": 32,
    "patch_size": 8,
    "num_classes": 5,
    "attn_layers": Part("x_transformers:Encoder", {"dim": WIDTH, "depth": 2, "heads": 4, "macaron": True}),
}

X_TRANSFORMERS: dict[str, Model] = {
    "decoder": _x_transformer("Decoder", rotary_pos_emb=True),
    "gate_residual": _x_transformer("Decoder", gate_residual=True),
    "hyper": _x_transformer("Decoder", num_residual_streams=4),
    "mv_split": _x_transformer("Encoder", mv_split_residual=True),
    "orthogonal": _x_transformer("Decoder", orthog_residual=True),
    "postnorm": _x_transformer("Encoder", pre_norm=False),
    "reinject_input": _x_transformer("Decoder", reinject_input=True),
    "sandwich": _x_transformer("Decoder", sandwich_norm=True, use_rmsnorm=True, ff_glu=True, scale_residual=True),
    "value_residual": _x_transformer("Decoder", depth=3, add_value_residual=True),
    "vit": Model("x_transformers:ViTransformerWrapper", lambda: (torch.randn(2, 3, 32, 32),), _PICTURE),
}


def _litgpt(name: str, **config: Any) -> Model:
    small = {"n_layer": 2, "n_embd": WIDTH, "n_head": 4, "padded_vocab_size": VOCABULARY, "block_size": 32, **config}
    given = {"config": Part("litgpt:Config.from_name", {"name": name, **small})}
    return Model("litgpt.model:GPT", lambda: (tokens(),), given)


_GROUPS = {"n_query_groups": 2, "intermediate_size": 128, "head_size": 16}

LITGPT: dict[str, Model] = {
    "falcon": _litgpt("falcon-7b"),
    "gemma2": _litgpt("Gemma-2-2b", sliding_window_size=8, **_GROUPS),
    "llama3": _litgpt("Llama-3.2-1B", **_GROUPS),
    "olmo2": _litgpt("OLMo-2-1124-7B", **{**_GROUPS, "n_query_groups": 4}),
    "phi": _litgpt("phi-2", intermediate_size=128),
    "pythia": _litgpt("pythia-14m", intermediate_size=128),
    "qwen3": _litgpt("Qwen3-0.6B", **_GROUPS),
}
