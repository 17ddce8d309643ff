"""Models that were built under `torch.inference_mode`, whose tensors autograd would never take."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import suppress

import torch
from torch import nn


def make_ordinary(model: nn.Module) -> None:
    """Turn inference tensors of a model into ordinary ones, in place: the same objects with the same values.

    Parameters, buffers and tensors that are plain attributes of its modules; without any, nothing is done. Views of one
    another become tensors of their own, which parameters and buffers never are where a module can be moved.
    """
    with torch.inference_mode(False), torch.no_grad():
        for tensor in {id(t): t for t in _tensors(model) if t.is_inference()}.values():
            twin = tensor.clone()
            if isinstance(tensor, nn.Parameter):
                twin = nn.Parameter(twin, tensor.requires_grad)
            # A graph that somebody has recorded with the tensor holds it: PyTorch itself refuses to train it then.
            with suppress(RuntimeError, AttributeError):
                torch.utils.swap_tensors(tensor, twin)


def _tensors(model: nn.Module) -> Iterator[torch.Tensor]:
    yield from (*model.parameters(), *model.buffers())
    for module in model.modules():
        yield from (value for value in vars(module).values() if isinstance(value, torch.Tensor))
