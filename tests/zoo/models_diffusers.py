"""Diffusion models of diffusers, tiny."""

from __future__ import annotations

import torch

from tests.zoo.model import Model

IMAGE, WIDTH = 16, 32


def latents(channels: int = 3) -> torch.Tensor:
    """Images (B, C, 16, 16)."""
    return torch.randn(2, channels, IMAGE, IMAGE)


def steps() -> torch.Tensor:
    """Time steps (B,)."""
    return torch.tensor([3, 500])


DIFFUSERS: dict[str, Model] = {
    "unet2d": Model(
        "diffusers:UNet2DModel",
        lambda: {"sample": latents(), "timestep": steps()},
        {
            "sample_size": IMAGE,
            "block_out_channels": (WIDTH, 2 * WIDTH),
            "layers_per_block": 1,
            "down_block_types": ("DownBlock2D", "AttnDownBlock2D"),
            "up_block_types": ("AttnUpBlock2D", "UpBlock2D"),
            "norm_num_groups": 8,
        },
    ),
    "unet2d_condition": Model(
        "diffusers:UNet2DConditionModel",
        lambda: {"sample": latents(4), "timestep": steps(), "encoder_hidden_states": torch.randn(2, 6, WIDTH)},
        {
            "sample_size": IMAGE,
            "block_out_channels": (WIDTH, 2 * WIDTH),
            "layers_per_block": 1,
            "transformer_layers_per_block": 2,
            "down_block_types": ("CrossAttnDownBlock2D", "DownBlock2D"),
            "up_block_types": ("UpBlock2D", "CrossAttnUpBlock2D"),
            "cross_attention_dim": WIDTH,
            "attention_head_dim": 4,
            "norm_num_groups": 8,
        },
    ),
    "dit": Model(
        "diffusers:DiTTransformer2DModel",
        lambda: {"hidden_states": latents(4), "timestep": steps(), "class_labels": torch.tensor([1, 5])},
        {
            "num_attention_heads": 4,
            "attention_head_dim": 16,
            "num_layers": 2,
            "sample_size": IMAGE,
            "num_embeds_ada_norm": 10,
        },
    ),
    "autoencoder_kl": Model(
        "diffusers:AutoencoderKL",
        lambda: {"sample": latents()},
        {
            "down_block_types": ("DownEncoderBlock2D", "DownEncoderBlock2D"),
            "up_block_types": ("UpDecoderBlock2D", "UpDecoderBlock2D"),
            "block_out_channels": (16, 32),
            "layers_per_block": 1,
            "norm_num_groups": 8,
            "sample_size": IMAGE,
        },
    ),
    "autoencoder_tiny": Model(
        "diffusers:AutoencoderTiny",
        lambda: {"sample": latents()},
        {
            "encoder_block_out_channels": (16, 16),
            "decoder_block_out_channels": (16, 16),
            "num_encoder_blocks": (1, 2),
            "num_decoder_blocks": (2, 1),
        },
    ),
    "flux": Model(
        "diffusers:FluxTransformer2DModel",
        lambda: {
            "hidden_states": torch.randn(2, 9, 4),
            "encoder_hidden_states": torch.randn(2, 6, WIDTH),
            "pooled_projections": torch.randn(2, WIDTH),
            "timestep": torch.tensor([0.3, 0.8]),
            "img_ids": torch.randint(0, 3, (9, 3)).float(),
            "txt_ids": torch.zeros(6, 3),
        },
        {
            "in_channels": 4,
            "num_layers": 2,
            "num_single_layers": 2,
            "attention_head_dim": 16,
            "num_attention_heads": 4,
            "joint_attention_dim": WIDTH,
            "pooled_projection_dim": WIDTH,
            "axes_dims_rope": (4, 4, 8),
        },
    ),
    "pixart": Model(
        "diffusers:PixArtTransformer2DModel",
        lambda: {
            "hidden_states": latents(4),
            "encoder_hidden_states": torch.randn(2, 6, WIDTH),
            "timestep": steps(),
            "added_cond_kwargs": {"resolution": None, "aspect_ratio": None},
        },
        {
            "num_attention_heads": 4,
            "attention_head_dim": 16,
            "num_layers": 2,
            "sample_size": IMAGE,
            "cross_attention_dim": 64,
            "caption_channels": WIDTH,
            "use_additional_conditions": False,
        },
    ),
    "prior": Model(
        "diffusers:PriorTransformer",
        lambda: {
            "hidden_states": torch.randn(2, WIDTH),
            "timestep": steps(),
            "proj_embedding": torch.randn(2, WIDTH),
            "encoder_hidden_states": torch.randn(2, 6, WIDTH),
        },
        {
            "num_attention_heads": 4,
            "attention_head_dim": 16,
            "num_layers": 2,
            "embedding_dim": WIDTH,
            "num_embeddings": 6,
        },
    ),
    "sd3": Model(
        "diffusers:SD3Transformer2DModel",
        lambda: {
            "hidden_states": latents(4),
            "encoder_hidden_states": torch.randn(2, 6, WIDTH),
            "pooled_projections": torch.randn(2, WIDTH),
            "timestep": steps(),
        },
        {
            "sample_size": IMAGE,
            "in_channels": 4,
            "out_channels": 4,
            "num_layers": 3,
            "attention_head_dim": 16,
            "num_attention_heads": 4,
            "joint_attention_dim": WIDTH,
            "caption_projection_dim": 64,
            "pooled_projection_dim": WIDTH,
            "pos_embed_max_size": 16,
        },
    ),
    "stable_audio": Model(
        "diffusers:StableAudioDiTModel",
        lambda: {
            "hidden_states": torch.randn(2, 8, 12),
            "timestep": torch.tensor([0.3, 0.8]),
            "encoder_hidden_states": torch.randn(2, 6, WIDTH),
            "global_hidden_states": torch.randn(2, 1, 48),
            "rotary_embedding": (torch.randn(13, 8), torch.randn(13, 8)),
        },
        {
            "in_channels": 8,
            "out_channels": 8,
            "num_layers": 2,
            "attention_head_dim": 16,
            "num_attention_heads": 4,
            "num_key_value_attention_heads": 2,
            "cross_attention_dim": WIDTH,
            "cross_attention_input_dim": WIDTH,
            "global_states_input_dim": 48,
            "time_proj_dim": 16,
        },
    ),
    "vq": Model(
        "diffusers:VQModel",
        lambda: {"sample": latents()},
        {
            "down_block_types": ("DownEncoderBlock2D", "DownEncoderBlock2D"),
            "up_block_types": ("UpDecoderBlock2D", "UpDecoderBlock2D"),
            "block_out_channels": (16, 32),
            "layers_per_block": 1,
            "norm_num_groups": 8,
            "num_vq_embeddings": 16,
        },
    ),
    "wan": Model(
        "diffusers:WanTransformer3DModel",
        lambda: {
            "hidden_states": torch.randn(2, 4, 2, 8, 8),
            "timestep": steps(),
            "encoder_hidden_states": torch.randn(2, 6, WIDTH),
        },
        {
            "num_attention_heads": 4,
            "attention_head_dim": 16,
            "in_channels": 4,
            "out_channels": 4,
            "text_dim": WIDTH,
            "freq_dim": 32,
            "ffn_dim": 128,
            "num_layers": 2,
            "rope_max_seq_len": 32,
        },
    ),
}
