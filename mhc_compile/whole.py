"""Whole parameters for tracing a model whose own ones are cut by `fully_shard`."""

from __future__ import annotations

from collections.abc import Mapping

import torch
from torch import nn


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
