"""Image models of vit-pytorch, tiny."""

from __future__ import annotations

import torch

from tests.zoo.model import Inputs, Model


def image(size: int) -> Inputs:
    """Images (B, 3, size, size)."""
    return lambda: (torch.randn(2, 3, size, size),)


_PATCHES = {"image_size": 32, "patch_size": 8, "num_classes": 5, "dim": 64}
_HEADS = {"heads": 4, "dim_head": 16, "mlp_dim": 128}

VIT: dict[str, Model] = {
    "cait": Model("vit_pytorch.cait:CaiT", image(32), {**_PATCHES, **_HEADS, "depth": 2, "cls_depth": 1}),
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
}
