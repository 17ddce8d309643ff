"""`timm:NAME`: any model of timm, with random weights."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import torch

from mhc_compile.targets.target import Target, build_on, cannot_build, device_of, require, unknown_model


def resolve_timm(name: str, *, device: str, config: Mapping[str, object], batch: int) -> Target:
    """Build `timm.create_model(name, **config)` and an image batch of the size the model declares.

    Raises:
        MissingPackageError: timm is not installed.
        UnknownTargetError: timm has no such model.
        InvalidOptionError: the model cannot be built with `config`.
        FactoryError: the model cannot be built at all.
    """
    timm = require("timm")
    if not timm.is_model(name):
        raise unknown_model("timm", name, timm.list_models())
    try:
        model, notes = build_on(device, lambda: timm.create_model(name, pretrained=False, **config))
    except Exception as error:
        raise cannot_build(f"timm:{name}", config, error) from error
    image = torch.randn((batch, *image_size(model, config)), device=device_of(model, device))
    return Target(f"timm:{name}", model.eval(), (image,), {}, notes)


def image_size(model: Any, config: Mapping[str, object]) -> tuple[int, int, int]:
    """Channels, height and width: what `config` asks for, else what the model declares."""
    channels, height, width = model.pretrained_cfg.get("input_size", (3, 224, 224))
    size = config.get("img_size", (height, width))
    height, width = (size, size) if isinstance(size, int) else size  # type: ignore[misc]
    return int(config.get("in_chans", channels)), int(height), int(width)  # type: ignore[call-overload]
