"""Text models of x-transformers, tiny."""

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


X_TRANSFORMERS: dict[str, Model] = {
    "decoder": _x_transformer("Decoder", rotary_pos_emb=True),
    "sandwich": _x_transformer("Decoder", sandwich_norm=True, use_rmsnorm=True, ff_glu=True, scale_residual=True),
    "hyper": _x_transformer("Decoder", num_residual_streams=4),
}
