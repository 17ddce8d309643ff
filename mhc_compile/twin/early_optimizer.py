"""Optimizers that were built before the new parameters existed."""

from __future__ import annotations

import warnings
from collections.abc import Iterable

import torch
from torch import nn

from mhc_compile.errors import EarlyOptimizerWarning
from mhc_compile.twin.find_objects import alive


def warn_of_early_optimizers(model: nn.Module, created: Iterable[nn.Parameter]) -> None:
    """Warn once for each optimizer of the model's parameters: none can know parameters created just now.

    Optimizers keep no list of themselves, so the garbage collector is asked for all objects. That takes a fraction of
    a second, and happens only where parameters are created.
    """
    names = sum(1 for p in created if p.requires_grad)
    own = {id(p) for p in model.parameters()} - {id(p) for p in created}
    for optimizer in alive(torch.optim.Optimizer):
        trained = sum(id(p) in own for group in optimizer.param_groups for p in group["params"])
        if trained and names:
            warnings.warn(_message(optimizer, trained, names), EarlyOptimizerWarning, stacklevel=3)


def _message(optimizer: torch.optim.Optimizer, trained: int, created: int) -> str:
    kind = type(optimizer).__name__
    return (
        f"{kind} was built before the hyper-connections: it trains {trained} tensors of the model and none of the "
        f"{created} new ones. Write backend.attach(model, example_inputs) and build the optimizer after it, or "
        "optimizer.add_param_group({'params': list(backend.parameters())}) now"
    )
