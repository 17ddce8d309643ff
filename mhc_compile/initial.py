"""The initial values of hyper-connections, for models that were transformed on the meta device and have none yet."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

import torch
from torch import nn

from mhc_compile.errors import NotTransformedError
from mhc_compile.hyper_connections import CHILD
from mhc_compile.owned import Owner
from mhc_compile.specs import all_specs
from mhc_compile.whole import placed


def reset_parameters(model: nn.Module) -> None:
    """Give hyper-connections the initial values that `transform` gave them, in place; other parameters are left alone.

    After `model.to_empty(device=...)` they have no values, and a checkpoint of the original model holds none for them.
    Sharded ones get their part: every process calls this. On the meta device there is nothing to do.

    Args:
        model: made by `transform`, a stage of `pipeline.split`, or a module that contains such.

    Raises:
        NotTransformedError: it is none of these.
    """
    owners = [module for module in model.modules() if isinstance(module, Owner)]
    if not owners:
        raise NotTransformedError(
            f"{type(model).__name__} was not made by mhc_compile.transform: pass the model that transform returned "
            f"(behind mhc_compile.backend: del model.{CHILD}, then backend.attach(model, example_inputs) again)"
        )
    with torch.no_grad():
        for owner in owners:
            for _, parameter, value in _initial_values(owner):
                parameter.copy_(placed(value, parameter))


def materialise(owner: Owner, state: dict[str, Any], prefix: str) -> None:
    """Add initial values to a plain state dict that is about to be assigned, for hyper-connections on the meta device.

    They go where the tensors of the state dict are.
    """
    device = next((v.device for k, v in state.items() if k.startswith(prefix) and isinstance(v, torch.Tensor)), None)
    if device is None or all(not parameter.is_meta for parameter in owner.hyper_connections.parameters()):
        return
    for name, parameter, value in _initial_values(owner, device):
        if parameter.is_meta:
            state[f"{prefix}{CHILD}.{name}"] = placed(value, parameter)


def _initial_values(
    owner: Owner, device: torch.device | None = None
) -> Iterator[tuple[str, nn.Parameter, torch.Tensor]]:
    """Name, parameter, and initial value in its dtype; on its device, if none is given."""
    known = owner.hyper_connections.itself
    for key, spec in all_specs(owner._mhc.plans, owner._mhc.config).items():
        if key not in known:  # it is in another stage of a pipeline
            continue
        first = next(known[key].parameters())
        values = spec.initial_values(first.dtype, device or first.device)
        for name, parameter in known[key].named_parameters():
            yield f"{spec.identifier}.{name}", parameter, values[name]
