"""What is done to models once they are made, so that they can be compared and trained."""

from __future__ import annotations

from torch import nn


def without_noise(model: nn.Module) -> nn.Module:
    """What is drawn like a tensor follows its strides, and those of a sum of streams are not those of the sum."""
    model.sampling = lambda mean, sigma: mean + sigma
    return model


def woken(model: nn.Module) -> nn.Module:
    """Random weights for convolutions and norms that start at zero: what lies in front of them has no gradient."""
    for module in model.modules():
        weight = getattr(module, "weight", None)
        if isinstance(weight, nn.Parameter) and not weight.any():
            nn.init.normal_(weight, std=0.02)
    return model
