"""From parameters that are cut by `fully_shard`, or not loaded, to whole ones without values, for tracing, and back."""

from __future__ import annotations

from collections.abc import Mapping
from contextlib import nullcontext
from typing import Any

import torch
from torch import nn

from mhc_compile import _torch_compat as compat
from mhc_compile._torch_compat import is_cut

Seen = tuple[torch.dtype, torch.device]
"""Dtype and device in which code sees a tensor."""


def make_whole(module: nn.Module, seen: Mapping[int, Seen]) -> None:
    """Replace tensors of a second tree that are sharded, gathered for a while, or offloaded by ones without values.

    Tracing reads shapes, dtypes and devices only. One number stands for all, so that no memory is needed for a model
    that does not fit; views of such tensors are as possible as those of contiguous ones.

    Args:
        module: over the parameters of a model; changed in place.
        seen: id of a tensor -> how code sees it.
    """
    made: dict[int, torch.Tensor] = {}  # tied ones stay tied
    registries = (
        (r, r is child._parameters) for child in module.modules() for r in (child._parameters, child._buffers)
    )
    for registry, parameters in registries:
        for name, tensor in registry.items():
            if tensor is not None and id(tensor) in seen:
                if id(tensor) not in made:  # `functional_call` puts plain tensors in the places of parameters
                    made[id(tensor)] = _without_values(tensor, *seen[id(tensor)], parameter=parameters)
                registry[name] = made[id(tensor)]  # type: ignore[assignment]


def _without_values(tensor: torch.Tensor, dtype: torch.dtype, device: torch.device, *, parameter: bool) -> torch.Tensor:
    with compat.functorch_left() if compat.functorch_active() else nullcontext():
        whole = torch.zeros((), dtype=dtype, device=device).expand(tensor.shape)
        return nn.Parameter(whole, tensor.requires_grad) if parameter else whole


def is_wrapped(tensor: torch.Tensor) -> bool:
    """Whether a transform of `torch.func`, such as `vmap`, is at work on a tensor."""
    wrapped: bool = compat.functorch_active() and compat.is_functorch_wrapped(tensor)
    return wrapped


def without_transforms(value: Any) -> Any:
    """An input to trace with in place of one that a transform of `torch.func` is at work on; any other as it is."""
    if not isinstance(value, torch.Tensor) or not is_wrapped(value):
        return value
    with compat.functorch_left():
        return torch.zeros(value.shape, dtype=value.dtype, device=value.device, requires_grad=value.requires_grad)


def placed(value: torch.Tensor, parameter: nn.Parameter, source: int | None = 0) -> torch.Tensor:
    """The part of a value that this process has of a sharded parameter; the value itself for any other.

    Args:
        value: whole.
        parameter: decides which part.
        source: process whose value all take, which they agree on by communication; None: each its own.
    """
    if not is_cut(parameter):
        return value
    from torch.distributed.tensor import DTensor, distribute_tensor

    assert isinstance(parameter, DTensor)
    return distribute_tensor(value, parameter.device_mesh, parameter.placements, src_data_rank=source)


def own_part(tensor: torch.Tensor) -> torch.Tensor:
    """What this process has of a sharded tensor; any other as it is."""
    part: torch.Tensor = getattr(tensor, "to_local", lambda: tensor)()
    return part
