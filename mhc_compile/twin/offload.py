"""Modules whose tensors accelerate loads for each of their calls: `cpu_offload`, `disk_offload`, `dispatch_model`.

It sets a `forward` on the instance that loads them, calls the forward of the class, and leaves them on the meta device.
Generated code runs in calls of the modules, so it finds them loaded. Hyper-connections are called by nobody, and small:
they stay loaded.
"""

from __future__ import annotations

import types
from collections.abc import Iterator, Mapping
from typing import Any

import torch
from torch import nn

OFFLOADING = "_hf_hook"
"""Attribute in which accelerate keeps the hook of a module."""

_CALLED = "_old_forward"
Device = torch.device


def computes_as_its_class(module: nn.Module) -> bool:
    """Whether a `forward` on the instance is that of the class, as accelerate leaves it, or accelerate's around it."""
    state = vars(module)
    return _is_of_class(module, state.get(_CALLED if OFFLOADING in state else "forward"))


def _is_of_class(module: nn.Module, forward: Any) -> bool:
    return isinstance(forward, types.MethodType) and forward.__func__ is type(module).forward


def without_hook(module: nn.Module, state: dict[str, Any]) -> None:
    """Leave accelerate's forward out of the attributes of a second module that is only traced."""
    if computes_as_its_class(module):
        for name in (OFFLOADING, _CALLED, "forward"):
            state.pop(name, None)


def call_plain(module: nn.Module, state: dict[str, Any], plain: type[nn.Module]) -> None:
    """In the attributes of a second module, let accelerate's forward call that of another class."""
    if computes_as_its_class(module):
        state[_CALLED if OFFLOADING in state else "forward"] = types.MethodType(plain.forward, module)


def keep_loaded(module: nn.Module) -> None:
    """Load the tensors of a module now, on the device they are used on, and leave them there."""
    for hook in _offloading(module):
        hook.pre_forward(module)
        hook.offload = False


def loaded_devices(modules: Mapping[str, nn.Module]) -> dict[tuple[int, str], tuple[str, Device]]:
    """Where tensors are while they are in use.

    Args:
        modules: name -> module.

    Returns:
        (id of the registry that holds a tensor, name in it) -> name of the module whose call loads it, and the device.
    """
    found: dict[tuple[int, str], tuple[str, Device]] = {}
    for name, module in modules.items():
        for hook in _offloading(module):
            device = torch.empty(0, device=hook.execution_device).device  # may be written as a number or without one
            for part in module.modules() if hook.place_submodules else (module,):
                for registry in (part._parameters, part._buffers):
                    found.update({(id(registry), key): (name, device) for key in registry})
    return found


def _offloading(module: nn.Module) -> Iterator[Any]:
    hook = vars(module).get(OFFLOADING)
    for each in getattr(hook, "hooks", (hook,)):
        if getattr(each, "offload", False) is True:
            yield each


class StaysLoaded(nn.Module):
    """A module that nobody calls, so that nothing would load what accelerate has moved away."""

    def __setattr__(self, name: str, value: Any) -> None:
        super().__setattr__(name, value)
        if name == OFFLOADING:
            keep_loaded(self)
