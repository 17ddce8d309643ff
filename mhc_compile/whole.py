"""From the parameters of a model that are cut by `fully_shard` to whole ones without values, for tracing, and back."""

from __future__ import annotations

from collections.abc import Mapping

import torch
from torch import nn

from mhc_compile._torch_compat import is_cut


def make_whole(module: nn.Module, dtypes: Mapping[int, torch.dtype]) -> None:
    """Replace the parameters of a second tree that are sharded, or gathered for a while, by whole ones without values.

    Tracing reads shapes, dtypes and devices only. One number stands for all, so that no memory is needed for a model
    that does not fit; views of such tensors are as possible as those of contiguous ones.

    Args:
        module: over the parameters of a model; changed in place.
        dtypes: see `_torch_compat.sharded_dtypes`.
    """
    made: dict[int, nn.Parameter] = {}  # tied ones stay tied
    for child in module.modules():
        for name, parameter in child._parameters.items():
            if parameter is not None and id(parameter) in dtypes:
                if id(parameter) not in made:
                    number = torch.zeros((), dtype=dtypes[id(parameter)], device=parameter.device)
                    made[id(parameter)] = nn.Parameter(number.expand(parameter.shape), parameter.requires_grad)
                child._parameters[name] = made[id(parameter)]


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
