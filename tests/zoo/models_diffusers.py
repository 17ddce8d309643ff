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
}
