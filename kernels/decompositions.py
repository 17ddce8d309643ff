"""The plain formula of each operator of this package: a decomposition table for exported programs."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import torch

from mhc_compile.kernels import packed, sinkhorn
from mhc_compile.kernels.packed import STEPS


def decompositions() -> dict[Any, Callable[..., Any]]:
    """Operator -> a function of the same arguments that consists of operators of PyTorch."""
    table: dict[Any, Callable[..., Any]] = {
        getattr(torch.ops.mhc, step).default: getattr(packed, step) for step in STEPS
    }
    table[torch.ops.mhc.sinkhorn.default] = sinkhorn.sinkhorn_forward
    table[torch.ops.mhc.sinkhorn_backward.default] = sinkhorn.sinkhorn_backward
    return table
