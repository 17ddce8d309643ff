"""`torchvision:NAME`: any model of torchvision, with random weights."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import torch

from mhc_compile.targets.target import Target, build_on, cannot_build, device_of, require, unknown_model

_SIZES = {"inception_v3": 299}


def resolve_torchvision(name: str, *, device: str, config: Mapping[str, object], batch: int) -> Target:
    """Build `torchvision.models.get_model(name, **config)` and inputs for its family.

    Raises:
        MissingPackageError: torchvision is not installed.
        UnknownTargetError: torchvision has no such model.
        InvalidOptionError: the model cannot be built with `config`.
        FactoryError: the model cannot be built at all.
    """
    models = require("torchvision").models
    if name not in models.list_models():
        raise unknown_model("torchvision", name, models.list_models())
    family = models.get_model_builder(name).__module__.split(".")[2]
    options = {"weights": None, **_family_options(family), **config}
    try:
        model, notes = build_on(device, lambda: models.get_model(name, **options))
    except Exception as error:
        raise cannot_build(f"torchvision:{name}", config, error) from error
    size = int(config.get("image_size", _SIZES.get(name, 224)))  # type: ignore[call-overload]
    inputs = _family_inputs(family, batch, size, device_of(model, device))
    return Target(f"torchvision:{name}", model.eval(), inputs, {}, notes)


def _family_options(family: str) -> dict[str, Any]:
    """Detection and segmentation load a pretrained backbone unless told not to."""
    return {"weights_backbone": None} if family in ("detection", "segmentation") else {}


def _family_inputs(family: str, batch: int, size: int, device: torch.device) -> tuple[Any, ...]:
    """Images (B, 3, H, W); clips (B, 3, 16, H, W); two frames for optical flow; a list of images for detection."""
    if family == "video":
        return (torch.randn(batch, 3, 16, size, size, device=device),)
    if family == "optical_flow":
        return tuple(torch.randn(batch, 3, 128, 128, device=device) for _ in range(2))
    images = torch.randn(batch, 3, size, size, device=device)
    return (list(images.unbind()),) if family == "detection" else (images,)
