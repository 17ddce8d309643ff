"""Small pure functions: values in another dtype, models without randomness, a loss for any output."""

from __future__ import annotations

import copy
from collections.abc import Callable, Mapping
from typing import Any

import torch
from torch import Tensor, nn
from torch.overrides import TorchFunctionMode

from mhc_compile.verification.compare import floats


def cast(value: Any, dtype: torch.dtype) -> Any:
    """`value` with its floating point tensors in `dtype`."""
    if isinstance(value, Tensor):
        return value.to(dtype) if value.is_floating_point() else value
    if isinstance(value, Mapping):
        return {key: cast(item, dtype) for key, item in value.items()}
    if type(value) in (tuple, list):
        return type(value)(cast(item, dtype) for item in value)
    return value


def off_by_one(model: nn.Module, seed: int) -> nn.Module:
    """A copy of a model in bfloat16 whose weights are off by up to one unit in the last place, the same of one seed."""
    model, generator = copy.deepcopy(model), torch.Generator().manual_seed(seed)
    with torch.no_grad():
        for p in model.parameters():
            unit = torch.finfo(p.dtype).eps * (2 * torch.rand(p.shape, generator=generator) - 1)
            p.copy_(p.float() * (1 + unit))
    return model


def without_dropout(model: nn.Module) -> nn.Module:
    """`model` with every dropout and drop path probability set to 0, in its modules and configurations."""
    for module in model.modules():
        holders = [module, *(v for name, v in vars(module).items() if name == "config" and hasattr(v, "__dict__"))]
        for holder in holders:
            for name, value in list(vars(holder).items()):
                if type(value) is float and ("drop" in name or (name == "p" and "Drop" in type(module).__name__)):
                    setattr(holder, name, 0.0)
    return model


class _Float32Watch(TorchFunctionMode):
    """Notices the first function that returns float32."""

    def __init__(self) -> None:
        super().__init__()
        self.seen = False

    def __torch_function__(
        self, func: Callable[..., Any], types: Any, args: tuple[Any, ...] = (), kwargs: dict[str, Any] | None = None
    ) -> Any:
        result = func(*args, **(kwargs or {}))
        self.seen = self.seen or any(tensor.dtype is torch.float32 for tensor in floats(result))
        return result


def computes_in_float32(call: Callable[[], Any]) -> bool:
    """Whether `call`, meant for double precision, rounds something to float32 on the way."""
    with _Float32Watch() as watch:
        call()
    return watch.seen


def random_loss(output: Any) -> Tensor:
    """A random linear functional of the output; a sum of squares would be constant behind a normalisation."""
    generator = torch.Generator().manual_seed(0)
    terms = [
        (t.float().nan_to_num(0.0, 0.0, 0.0) * torch.randn(t.shape, generator=generator)).mean() for t in floats(output)
    ]
    return torch.stack(terms).sum()
