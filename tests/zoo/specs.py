"""What it takes to make a Hugging Face model tiny and to call it, where the general rules of build.py do not suffice.

`SPECS` maps the model name of a target (`hf:NAME`) to a `Spec`; names without one need none.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from typing import Any

import torch
from torch import Tensor

BATCH, SEQUENCE, DECODER_SEQUENCE, VOCABULARY, HIDDEN, IMAGE = 2, 16, 8, 160, 64, 32

Inputs = Callable[[Any], dict[str, Any]]  # configuration -> keyword inputs


@dataclass(frozen=True)
class Spec:
    """How one model differs from what build.py does on its own.

    Attributes:
        model_type: model type of transformers, if it is not the name of the target.
        head: model class of transformers, if it is not the one `mhc_compile.targets` picks.
        config: nested overrides of the configuration, stronger than the general tiny sizes.
        keep: attributes that keep their default, because the configuration derives them from others.
        part: attribute of the configuration that holds the configuration of the model to build.
        inputs: all keyword inputs, made from the configuration; None for those that `mhc_compile.targets` makes.
        more: keyword inputs added to those.
    """

    model_type: str | None = None
    head: str | None = None
    config: Mapping[str, Any] = field(default_factory=dict)
    keep: tuple[str, ...] = ()
    part: str | None = None
    inputs: Inputs | None = None
    more: Inputs | None = None


# ------------------------------------------------------------------------------------------------ building blocks
def tokens(batch: int = BATCH, length: int = SEQUENCE) -> Tensor:
    """Token ids (B, L) away from the special tokens."""
    return torch.randint(60, 150, (batch, length))


def ones(batch: int = BATCH, length: int = SEQUENCE) -> Tensor:
    """Attention mask (B, L) that hides nothing."""
    return torch.ones(batch, length, dtype=torch.long)


def images(size: int = IMAGE, batch: int = BATCH) -> dict[str, Any]:
    """Square images (B, 3, size, size)."""
    return {"pixel_values": torch.randn(batch, 3, size, size)}


def clips(frames: int) -> dict[str, Any]:
    """Clips (B, T, 3, 32, 32)."""
    return {"pixel_values": torch.randn(BATCH, frames, 3, IMAGE, IMAGE)}


def text(**more: Any) -> dict[str, Any]:
    """Token ids and their mask."""
    return {"input_ids": tokens(), "attention_mask": ones(), **more}


def boxes() -> Tensor:
    """Well-formed token boxes (B, L, 4): left < right, top < bottom."""
    return torch.arange(4) * 10 + torch.randint(0, 9, (BATCH, SEQUENCE, 4))


def image_text(config: Any, count: int) -> dict[str, Any]:
    """One text with `count` image tokens, and the image whose features replace them."""
    ids = tokens(1, count + 8)
    ids[:, 2 : 2 + count] = getattr(config, "image_token_id", None) or config.image_token_index
    return {"input_ids": ids, "attention_mask": torch.ones_like(ids), **images(batch=1), "use_cache": False}


def waveform(samples: int) -> dict[str, Any]:
    """Raw audio (B, samples)."""
    return {"input_values": torch.randn(BATCH, samples)}


def forecast(marks: int = 15, horizon: int = 4) -> dict[str, Any]:
    """Past and future values of a time series with one time feature."""
    return {
        "past_values": torch.randn(BATCH, marks),
        "past_time_features": torch.randn(BATCH, marks, 1),
        "past_observed_mask": torch.ones(BATCH, marks),
        "future_values": torch.randn(BATCH, horizon),
        "future_time_features": torch.randn(BATCH, horizon, 1),
        "use_cache": False,
    }


FOUR_STAGES = {"hidden_sizes": [16, 32, 48, 64], "depths": [1, 1, 1, 1]}
FOUR_DEEP_STAGES = {"embedding_size": 16, "hidden_sizes": [16, 32, 48, 64], "depths": [2, 2, 2, 2]}
ATTENTION_STAGES = {**FOUR_STAGES, "num_attention_heads": [1, 2, 4, 4]}
SWIN = {"image_size": 32, "patch_size": 2, "embed_dim": 16, "depths": [2, 2], "num_heads": [2, 4], "window_size": 4}
LATENT_ATTENTION = {"num_key_value_heads": 4, "n_group": 1, "topk_group": 1}
SPEECH = {
    "conv_dim": [32] * 3,
    "conv_stride": [5, 2, 2],
    "conv_kernel": [10, 3, 2],
    "num_feat_extract_layers": 3,
    "num_conv_pos_embeddings": 16,
    "num_conv_pos_embedding_groups": 4,
}
SERIES = {"prediction_length": 4, "context_length": 12, "lags_sequence": [1, 2, 3], "num_time_features": 1}
PATCHED_SERIES = {"context_length": 32, "patch_length": 8, "patch_stride": 8, "num_input_channels": 2}
