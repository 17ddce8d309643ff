"""Every model of the zoo, small and with seeded random weights: nothing is downloaded."""

from __future__ import annotations

import json
import re
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import torch
from torch import nn

from mhc_compile.targets import resolve
from mhc_compile.targets.huggingface import make_config, make_model
from mhc_compile.targets.huggingface_inputs import default_inputs
from tests.zoo.second import EXPECTED_SECOND, SECOND, build_second
from tests.zoo.specs import BATCH, HIDDEN, IMAGE, VOCABULARY, Spec
from tests.zoo.specs_other import OTHER
from tests.zoo.specs_text import TEXT

SPECS: dict[str, Spec] = {**TEXT, **OTHER}
FIRST: dict[str, dict[str, Any]] = json.loads(Path(__file__).with_name("expected_sites.json").read_text())
EXPECTED = {**FIRST, **EXPECTED_SECOND}

# timm and torchvision models keep their real depth; where they take smaller images, they get them.
_SMALL_IMAGES = 64
_IMAGE_SIZES = {
    "timm:davit_tiny": _SMALL_IMAGES,
    "timm:convnext_atto": _SMALL_IMAGES,
    "timm:convmixer_768_32": _SMALL_IMAGES,
    "timm:fasternet_t0": _SMALL_IMAGES,
    "timm:focalnet_tiny_srf": _SMALL_IMAGES,
    "timm:pvt_v2_b0": _SMALL_IMAGES,
    "timm:starnet_s1": _SMALL_IMAGES,
    "torchvision:efficientnet_b0": _SMALL_IMAGES,
    **{f"torchvision:{name}": _SMALL_IMAGES for name in ("densenet121", "mobilenet_v3_small", "regnet_y_400mf")},
    **{f"torchvision:{name}": _SMALL_IMAGES for name in ("resnet18", "wide_resnet50_2")},
}

# Sizes by the names under which configurations keep them.
_SIZES: dict[int, str] = {
    HIDDEN: "hidden_size d_model n_embd dim emb_dim embed_dim d_embed encoder_hidden_size decoder_hidden_size "
    "hidden_dim model_dim text_hidden_size out_hidden_size word_embed_proj_dim projection_dim output_hidden_size "
    "qformer_hidden_size embedding_size",
    2: "num_hidden_layers n_layer num_layers n_layers layers encoder_layers decoder_layers num_decoder_layers "
    "num_encoder_layers depth decoder_num_hidden_layers encoder_num_hidden_layers num_key_value_heads num_kv_heads "
    "decoder_num_key_value_heads encoder_num_key_value_heads num_experts_per_tok n_group",
    4: "num_attention_heads n_head n_heads num_heads encoder_attention_heads decoder_attention_heads attention_heads "
    "num_experts num_local_experts n_routed_experts",
    16: "head_dim d_kv attention_head_size d_head attention_head_dim kv_lora_rank v_head_dim qk_head_dim",
    2 * HIDDEN: "intermediate_size encoder_ffn_dim decoder_ffn_dim ffn_dim d_ff n_inner mlp_dim ffn_hidden_size "
    "encoder_intermediate_size decoder_intermediate_size max_position_embeddings n_positions n_ctx max_seq_len "
    "max_sequence_length max_source_positions max_target_positions original_max_position_embeddings",
    VOCABULARY: "vocab_size text_vocab_size src_vocab_size tgt_vocab_size",
    IMAGE: "image_size moe_intermediate_size shared_expert_intermediate_size",
    8: "patch_size sliding_window local_attention qk_rope_head_dim qk_nope_head_dim chunk_size mamba_chunk_size",
    24: "q_lora_rank",
    1: "n_shared_experts topk_group first_k_dense_replace",
    5: "num_labels",
}
_SIZE_OF = {name: size for size, names in _SIZES.items() for name in names.split()}
_TOKEN = re.compile(r"_token_(id|ids|index)$")
_RANDOM_IN_TRAINING = ("mask_time_prob", "mask_feature_prob")  # and every layerdrop


def build(target: str, *, train: bool = False, seed: int = 0) -> tuple[nn.Module, tuple[Any, ...], dict[str, Any]]:
    """The model of one key of `EXPECTED`, with positional and keyword inputs for its forward.

    LayerDrop and SpecAugment, which choose at random what is computed, are off.

    Args:
        target: `hf:NAME`, `timm:NAME`, `torchvision:NAME`, or a package of the second zoo and a name.
        train: return it in training mode.
        seed: of weights and inputs.
    """
    if target in SECOND:
        return build_second(target, train=train, seed=seed)
    torch.manual_seed(seed)
    scheme, _, name = target.partition(":")
    if scheme == "hf":
        model, kwargs = _build_huggingface(name)
        return model.train(train), (), kwargs
    found = resolve(target, meta=False, batch=BATCH)
    _wake_head(found.model)
    return found.model.train(train), _images(target, found.example_inputs), found.example_kwargs


def _wake_head(model: nn.Module) -> None:
    """Random weights for a classifier that starts at zero: it would hide every difference, and every gradient."""
    for module in model.modules():
        if isinstance(module, nn.Linear) and not module.weight.any():
            nn.init.normal_(module.weight, std=0.02)


def _images(target: str, inputs: tuple[Any, ...]) -> tuple[Any, ...]:
    size = _IMAGE_SIZES.get(target)
    return inputs if size is None else (torch.randn(BATCH, 3, size, size),)


def _build_huggingface(name: str) -> tuple[nn.Module, dict[str, Any]]:
    spec = SPECS.get(name, Spec())
    model_type = spec.model_type or name
    config = make_config(model_type, tiny(model_type, spec.config, spec.keep))
    model = make_model(config, spec.head).eval()
    kwargs = spec.inputs(config) if spec.inputs else default_inputs(model, BATCH, torch.device("cpu"))[0]
    return model, kwargs | (spec.more(config) if spec.more else {})


def tiny(model_type: str, overrides: Mapping[str, Any], keep: tuple[str, ...] = ()) -> dict[str, Any]:
    """Nested overrides that make the default configuration of `model_type` tiny; `overrides` are stronger."""
    try:
        default = make_config(model_type, {})
    except Exception:  # the default configuration needs the overrides to be valid
        default = make_config(model_type, overrides)
    return _shrink(default, overrides, keep)


def _shrink(default: Any, overrides: Mapping[str, Any], keep: tuple[str, ...]) -> dict[str, Any]:
    small: dict[str, Any] = {}
    spare = iter(range(3, 60))  # ids for special tokens other than padding, start and end
    for name, value in vars(default).items():
        if name.startswith("_") or name in keep or (name in overrides and not hasattr(value, "to_dict")):
            continue
        if hasattr(value, "to_dict"):
            small[name] = _shrink_part(value, overrides.get(name, {}), keep)
        elif _TOKEN.search(name) and value is not None:
            small[name] = _token(name, value, spare)
        elif "layerdrop" in name or name in _RANDOM_IN_TRAINING:
            small[name] = 0.0
        elif name == "apply_spec_augment":
            small[name] = False
        elif type(value) is int and value > 0 and name in _SIZE_OF:
            small[name] = _SIZE_OF[name]
    parts = {name for name, value in vars(default).items() if hasattr(value, "to_dict")}
    return small | {name: value for name, value in overrides.items() if name not in parts}


def _shrink_part(part: Any, overrides: Mapping[str, Any], keep: tuple[str, ...]) -> dict[str, Any]:
    model_type = overrides.get("model_type", part.model_type)
    rest = {name: value for name, value in overrides.items() if name != "model_type"}
    small = _shrink(part, rest, keep) if model_type == part.model_type else tiny(model_type, rest, keep)
    return {"model_type": model_type, **small}


def _token(name: str, value: Any, spare: Any) -> Any:
    """Padding 0, start 1, end 2, others after that: all inside the tiny vocabulary."""
    fixed = {"pad_token_id": 0, "bos_token_id": 1, "decoder_start_token_id": 1, "eos_token_id": 2, "sep_token_id": 2}
    fixed["forced_eos_token_id"] = 2
    if isinstance(value, (list, tuple)):
        return [2]
    return fixed[name] if name in fixed else next(spare)
