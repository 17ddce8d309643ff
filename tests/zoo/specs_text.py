"""Tiny text models: encoders, decoders and encoder-decoders."""

from __future__ import annotations

import torch

from tests.zoo.specs import (
    BATCH,
    DECODER_SEQUENCE,
    HIDDEN,
    LATENT_ATTENTION,
    Spec,
    boxes,
    ones,
    text,
    tokens,
)

MAMBA = {"mamba_n_heads": 8, "mamba_d_head": 16, "mamba_d_state": 8, "mamba_n_groups": 1}

ENCODERS = {
    "esmc": Spec(config={"num_key_value_heads": 4}),
    "funnel": Spec(
        config={
            "block_sizes": [1, 1],
            "num_decoder_layers": 1,
            "d_model": 64,
            "n_head": 4,
            "d_head": 16,
            "d_inner": 128,
        }
    ),
    "lilt": Spec(
        head="LiltModel",
        config={"channel_shrink_ratio": 4, "max_2d_position_embeddings": 128, "hidden_size": 48},
        more=lambda c: {"bbox": boxes()},
    ),
    "perceiver": Spec(
        config={
            "num_latents": 8,
            "d_latents": 32,
            "d_model": 64,
            "num_blocks": 1,
            "num_self_attends_per_block": 2,
            "num_self_attention_heads": 4,
            "num_cross_attention_heads": 4,
            "max_position_embeddings": 32,
        },
        inputs=lambda c: {"inputs": tokens(BATCH, 32), "attention_mask": ones(BATCH, 32)},
    ),
    "visual_bert": Spec(
        head="VisualBertModel",
        config={"visual_embedding_dim": 32},
        inputs=lambda c: text(visual_embeds=torch.randn(BATCH, 6, 32), visual_attention_mask=ones(BATCH, 6)),
    ),
    "bert-generation": Spec(head="BertGenerationEncoder"),
}

DECODERS = {
    "ctrl": Spec(config={"dff": 128}),
    "decision_transformer": Spec(
        config={"n_head": 4},
        inputs=lambda c: {
            "states": torch.randn(BATCH, 6, 17),
            "actions": torch.randn(BATCH, 6, 4),
            "rewards": torch.randn(BATCH, 6, 1),
            "returns_to_go": torch.randn(BATCH, 6, 1),
            "timesteps": torch.arange(6).repeat(BATCH, 1),
            "attention_mask": ones(BATCH, 6),
        },
    ),
    "deepseek_v3": Spec(config=LATENT_ATTENTION, keep=("head_dim", "qk_head_dim")),
    "falcon": Spec(config={"new_decoder_architecture": False, "parallel_attn": True, "multi_query": True}),
    "falcon_seq": Spec(
        model_type="falcon",
        config={
            "new_decoder_architecture": False,
            "parallel_attn": False,
            "multi_query": False,
            "alibi": True,
            "num_kv_heads": 4,
        },
    ),
    "gpt_neo": Spec(config={"attention_types": [[["global", "local"], 1]], "window_size": 8, "num_layers": 2}),
    "gptj": Spec(config={"rotary_dim": 8}),
    "granitemoehybrid": Spec(config={**MAMBA, "layer_types": ["mamba", "attention"], "shared_intermediate_size": 64}),
    "jamba": Spec(
        config={
            "attn_layer_period": 2,
            "attn_layer_offset": 1,
            "mamba_d_state": 8,
            "mamba_dt_rank": 4,
            "use_mamba_kernels": False,
            "num_experts": 4,
        }
    ),
    "mamba": Spec(config={"state_size": 8, "time_step_rank": 4}),
    "minicpm3": Spec(config={"num_key_value_heads": 4}, keep=("head_dim", "qk_head_dim")),
    "mpt": Spec(config={"d_model": 64, "n_heads": 4, "n_layers": 2, "max_seq_len": 64, "expansion_ratio": 2}),
    "nemotron_h": Spec(
        config={
            "layers_block_type": ["linear_attention", "moe", "full_attention", "mlp"],
            "ssm_state_size": 8,
            "mamba_num_heads": 8,
            "mamba_head_dim": 16,
            "n_groups": 2,
            "moe_shared_expert_intermediate_size": 32,
            "n_group": 1,
            "topk_group": 1,
            "use_mamba_kernels": False,
        },
        keep=("num_hidden_layers",),
    ),
    "olmo_hybrid": Spec(
        config={
            "layer_types": ["linear_attention", "full_attention"],
            "linear_num_key_heads": 4,
            "linear_num_value_heads": 4,
            "linear_key_head_dim": 16,
            "linear_value_head_dim": 16,
        }
    ),
    "opt_postnorm": Spec(model_type="opt", config={"do_layer_norm_before": False}),
    "qwen2_moe": Spec(config={"shared_expert_intermediate_size": 64}),
    "recurrent_gemma": Spec(
        config={
            "num_hidden_layers": 3,
            "lru_width": 64,
            "attention_window_size": 8,
            "block_types": ["recurrent", "recurrent", "attention"],
        }
    ),
    "reformer": Spec(
        head="ReformerModelWithLMHead",
        config={
            "is_decoder": True,
            "attn_layers": ["local", "lsh"],
            "attention_head_size": 16,
            "axial_pos_shape": [4, 8],
            "axial_pos_embds_dim": [32, 32],
            "feed_forward_size": 128,
            "local_attn_chunk_length": 8,
            "lsh_attn_chunk_length": 8,
            "max_position_embeddings": 32,
            "num_buckets": 4,
            "hash_seed": 0,
        },
        inputs=lambda c: {"input_ids": tokens(BATCH, 32), "attention_mask": ones(BATCH, 32), "use_cache": False},
    ),
    "rwkv": Spec(config={"attention_hidden_size": 64, "context_length": 64}),
    "xlnet": Spec(config={"d_inner": 128, "n_layer": 2}),
}

ENCODER_DECODERS = {
    "dia": Spec(
        config={
            "delay_pattern": [0, 1, 2],
            "decoder_config": {
                "num_channels": 3,
                "cross_num_attention_heads": 4,
                "cross_head_dim": 16,
                "cross_num_key_value_heads": 4,
                "cross_hidden_size": HIDDEN,
            },
        },
        inputs=lambda c: text(decoder_input_ids=torch.randint(20, 100, (BATCH, DECODER_SEQUENCE, 3)), use_cache=False),
    ),
    "pegasus_x": Spec(config={"block_size": 8, "num_global_tokens": 4}),
    "prophetnet": Spec(config={"num_encoder_attention_heads": 4, "num_decoder_attention_heads": 4}),
}

TEXT: dict[str, Spec] = {**ENCODERS, **DECODERS, **ENCODER_DECODERS}
