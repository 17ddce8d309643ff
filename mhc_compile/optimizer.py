"""Parameter groups for optimizers: which parameters take weight decay."""

from __future__ import annotations

from typing import Any

from torch import nn

from mhc_compile.errors import InvalidOptionError, NotAModuleError
from mhc_compile.hyper_connections import HyperConnections

NO_DECAY_PREFIXES = ("alpha", "bias", "static_", "scale")


def parameter_groups(model: nn.Module, weight_decay: float = 0.1) -> list[dict[str, Any]]:
    """Two groups for any `torch.optim` optimizer: with and without weight decay.

    Decay pulls parameters towards zero, which is harmless for matrices and wrong for norms and biases. Of the
    hyper-connections only `phi` decays: the static part of a connection rests at the identity, not at zero.

    Args:
        model: transformed or not. Every trainable parameter lands in exactly one group, tied ones once.
        weight_decay: of the first group.

    Returns:
        `[{"params": ..., "weight_decay": weight_decay}, {"params": ..., "weight_decay": 0.0}]`.

    Raises:
        InvalidOptionError: `weight_decay` is negative or no number.
        NotAModuleError: `model` is no module.
    """
    if not isinstance(model, nn.Module):
        raise NotAModuleError(f"got a {type(model).__name__}: write mhc_compile.parameter_groups(model)")
    if isinstance(weight_decay, bool) or not isinstance(weight_decay, (int, float)) or weight_decay < 0:
        raise InvalidOptionError(f"weight_decay={weight_decay!r}: write a number of at least 0, for example 0.1")
    spared = _static_parameters(model)
    trained = [p for p in model.parameters() if p.requires_grad]
    decays = [p.dim() >= 2 and id(p) not in spared for p in trained]
    return [
        {"params": [p for p, d in zip(trained, decays, strict=True) if d], "weight_decay": float(weight_decay)},
        {"params": [p for p, d in zip(trained, decays, strict=True) if not d], "weight_decay": 0.0},
    ]


def _static_parameters(model: nn.Module) -> set[int]:
    return {
        id(parameter)
        for module in model.modules()
        if isinstance(module, HyperConnections)
        for name, parameter in module.named_parameters()
        if name.rpartition(".")[2].startswith(NO_DECAY_PREFIXES)
    }
