"""Image models of vit-pytorch, segmentation-models-pytorch and MONAI, tiny."""

from __future__ import annotations

from typing import Any

import torch

from tests.zoo.finished import without_noise, woken
from tests.zoo.model import Inputs, Model


def image(size: int, channels: int = 3) -> Inputs:
    """Images (B, C, size, size)."""
    return lambda: (torch.randn(2, channels, size, size),)


_PATCHES = {"image_size": 32, "patch_size": 8, "num_classes": 5, "dim": 64}
_HEADS = {"heads": 4, "dim_head": 16, "mlp_dim": 128}
_TWINS = {
    f"s{stage}_{name}": value
    for stage, width, patch, local in ((1, 16, 4, 4), (2, 16, 2, 2), (3, 32, 2, 2), (4, 32, 2, 1))
    for name, value in (
        ("emb_dim", width),
        ("patch_size", patch),
        ("local_patch_size", local),
        ("global_k", local),
        ("depth", 1),
    )
}

VIT: dict[str, Model] = {
    "cait": Model("vit_pytorch.cait:CaiT", image(32), {**_PATCHES, **_HEADS, "depth": 2, "cls_depth": 1}),
    "cross_vit": Model(
        "vit_pytorch.cross_vit:CrossViT",
        image(32),
        {
            "image_size": 32,
            "num_classes": 5,
            "sm_dim": 32,
            "lg_dim": 48,
            "sm_patch_size": 4,
            "lg_patch_size": 8,
            "depth": 2,
            "cross_attn_depth": 1,
            **{f"{size}_enc_{name}": n for size in ("sm", "lg") for name, n in (("depth", 1), ("mlp_dim", 64))},
            **{name: 4 for name in ("sm_enc_heads", "lg_enc_heads", "cross_attn_heads")},
            **{name: 8 for name in ("sm_enc_dim_head", "lg_enc_dim_head", "cross_attn_dim_head")},
        },
    ),
    "crossformer": Model(
        "vit_pytorch.crossformer:CrossFormer",
        image(64),
        {
            "dim": (32, 32, 64, 64),
            "depth": (1, 1, 1, 1),
            "global_window_size": (4, 2, 2, 2),
            "local_window_size": (4, 2, 2, 2),
            "num_classes": 5,
        },
    ),
    "keel": Model("vit_pytorch.vit_with_keel_post_ln:ViT", image(32), {**_PATCHES, **_HEADS, "depth": 2}),
    "levit": Model(
        "vit_pytorch.levit:LeViT",
        image(64),
        {"image_size": 64, "num_classes": 5, "dim": (32, 48, 64), "depth": 1, "heads": (2, 2, 2), "mlp_mult": 2},
        finish=woken,
    ),
    "look_vit": Model(
        "vit_pytorch.look_vit:LookViT",
        image(32),
        {
            **_PATCHES,
            "depth": 2,
            "heads": 4,
            "dim_head": 16,
            "highres_patch_size": 4,
            "cross_attn_heads": 4,
            "cross_attn_dim_head": 16,
        },
    ),
    "max_vit": Model(
        "vit_pytorch.max_vit:MaxViT",
        image(32),
        {"num_classes": 5, "dim": 32, "depth": (2, 1), "dim_head": 16, "dim_conv_stem": 16, "window_size": 4},
    ),
    "mobile_vit": Model(
        "vit_pytorch.mobile_vit:MobileViT",
        image(64),
        {
            "image_size": (64, 64),
            "dims": (32, 48, 64),
            "channels": (8, 8, 16, 16, 24, 24, 32, 32, 48, 48, 64),
            "depths": (1, 1, 1),
            "num_classes": 5,
        },
    ),
    "nest": Model(
        "vit_pytorch.nest:NesT",
        image(32),
        {
            "image_size": 32,
            "patch_size": 4,
            "dim": 32,
            "heads": 2,
            "num_hierarchies": 2,
            "block_repeats": (1, 2),
            "num_classes": 5,
        },
    ),
    "normalized_vit": Model(
        "vit_pytorch.normalized_vit:nViT",
        image(32),
        {**_PATCHES, "depth": 2, "heads": 4, "dim_head": 16, "mlp_dim": 128},
    ),
    "regionvit": Model(
        "vit_pytorch.regionvit:RegionViT",
        image(64),
        {"dim": (32, 32, 32, 32), "depth": (1, 1, 1, 1), "window_size": 2, "num_classes": 5},
    ),
    "twins_svt": Model("vit_pytorch.twins_svt:TwinsSVT", image(64), {"num_classes": 5, **_TWINS}),
    "xcit": Model("vit_pytorch.xcit:XCiT", image(32), {**_PATCHES, **_HEADS, "depth": 2, "cls_depth": 1}),
}


def _segmentation(name: str, encoder: str, **config: Any) -> Model:
    given = {"encoder_name": encoder, "encoder_weights": None, "classes": 2, **config}
    return Model(f"segmentation_models_pytorch:{name}", image(64), given)


SEGMENTATION: dict[str, Model] = {
    "deeplabv3plus": _segmentation("DeepLabV3Plus", "resnet18", decoder_channels=32),
    "fpn": _segmentation("FPN", "mobilenet_v2", decoder_pyramid_channels=32, decoder_segmentation_channels=32),
    "linknet": _segmentation("Linknet", "resnet18"),
    "manet": _segmentation("MAnet", "resnet18", decoder_channels=(64, 32, 16, 8, 8), decoder_pab_channels=16),
    "segformer": _segmentation("Segformer", "mit_b0", decoder_segmentation_channels=32),
    "unet": _segmentation("Unet", "se_resnet50", decoder_channels=(64, 32, 16, 8, 8)),
}

_FLAT = {"spatial_dims": 2, "in_channels": 1, "out_channels": 2}

MONAI: dict[str, Model] = {
    "autoencoderkl": Model(
        "monai.networks.nets:AutoencoderKL",
        image(16, 1),
        {
            "spatial_dims": 2,
            "channels": (16, 32),
            "num_res_blocks": 1,
            "norm_num_groups": 8,
            "attention_levels": (False, True),
            "latent_channels": 3,
        },
        finish=without_noise,
    ),
    "diffusion_unet": Model(
        "monai.networks.nets:DiffusionModelUNet",
        lambda: (torch.randn(2, 1, 16, 16), torch.tensor([1, 30])),
        {
            **_FLAT,
            "out_channels": 1,
            "channels": (16, 32),
            "num_res_blocks": 1,
            "norm_num_groups": 8,
            "attention_levels": (False, True),
            "num_head_channels": 8,
        },
        finish=woken,
    ),
    "mednext": Model(
        "monai.networks.nets:MedNeXt",
        image(32, 1),
        {
            **_FLAT,
            "init_filters": 8,
            "encoder_expansion_ratio": 2,
            "decoder_expansion_ratio": 2,
            "bottleneck_expansion_ratio": 2,
            "blocks_down": (2, 2),
            "blocks_bottleneck": 2,
            "blocks_up": (2, 2),
            "use_residual_connection": True,
        },
    ),
    "restormer": Model(
        "monai.networks.nets.restormer:Restormer",
        image(32, 1),
        {
            **_FLAT,
            "dim": 8,
            "num_blocks": (1, 1, 1),
            "heads": (1, 2, 2),
            "num_refinement_blocks": 1,
            "dual_pixel_task": True,
        },
    ),
    "segresnet": Model(
        "monai.networks.nets:SegResNet",
        image(32, 1),
        {**_FLAT, "init_filters": 8, "blocks_down": (1, 2, 2), "blocks_up": (1, 1)},
    ),
    "swin_unetr": Model(
        "monai.networks.nets:SwinUNETR",
        image(64, 1),
        {**_FLAT, "feature_size": 12, "depths": (1, 1, 1, 1), "num_heads": (2, 2, 4, 4), "window_size": 4},
    ),
    "unet": Model(
        "monai.networks.nets:UNet",
        image(32, 1),
        {**_FLAT, "channels": (8, 16, 32), "strides": (2, 2), "num_res_units": 2},
    ),
    "vit": Model(
        "monai.networks.nets:ViT",
        image(32, 1),
        {
            "in_channels": 1,
            "img_size": 32,
            "patch_size": 8,
            "hidden_size": 64,
            "mlp_dim": 128,
            "num_layers": 2,
            "num_heads": 4,
            "classification": True,
            "spatial_dims": 2,
        },
    ),
    "vnet": Model("monai.networks.nets:VNet", image(32, 1), dict(_FLAT)),
    "vqvae": Model(
        "monai.networks.nets:VQVAE",
        image(16, 1),
        {
            "spatial_dims": 2,
            "in_channels": 1,
            "out_channels": 1,
            "channels": (8, 16),
            "num_res_channels": (8, 16),
            "num_res_layers": 2,
            "downsample_parameters": ((2, 4, 1, 1), (2, 4, 1, 1)),
            "upsample_parameters": ((2, 4, 1, 1, 0), (2, 4, 1, 1, 0)),
            "num_embeddings": 8,
            "embedding_dim": 8,
        },
    ),
}
