"""A second tree of modules over the parameters and buffers of a first."""

from __future__ import annotations

import abc
import copy
import functools
from collections.abc import Callable
from typing import Any

import torch
from torch import nn

from mhc_compile._torch_compat import unwrapped

HOOKS = (
    "_forward_hooks",
    "_forward_hooks_with_kwargs",
    "_forward_hooks_always_called",
    "_forward_pre_hooks",
    "_forward_pre_hooks_with_kwargs",
)
_INTERNALS = frozenset(vars(nn.Module()))

State = dict[str, Any]
Look = Callable[[nn.Module], tuple[type[nn.Module], State]]
"""Class and attributes of the second module that stands for one of the first tree."""


def derived(mixin: type, original: Any, attributes: dict[str, Any]) -> Any:
    """A class with the name of `original`, and `mixin` in front of it.

    `__init_subclass__` of `original` runs, for layers of Transformers wrap the forward there, unless it refuses. No
    metaclass of the user's own hears of it. What is constructed from the class is a plain `original`: for registers of
    classes, `from_pretrained`, and slices of an `nn.Sequential`.
    """

    @functools.wraps(original.__init__)
    def new(cls: type[nn.Module], *args: Any, **kwargs: Any) -> nn.Module:
        module: nn.Module = original(*args, **kwargs)
        return module

    names = {k: getattr(original, k) for k in ("__module__", "__qualname__", "__doc__")}
    namespace = {**names, "__new__": new, **attributes}
    make = abc.ABCMeta if issubclass(type(original), abc.ABCMeta) else type
    try:
        return make.__new__(type(original), original.__name__, (mixin, original), dict(namespace))
    except Exception:  # it wants arguments, a name that is new, or no subclass at all
        quiet = type(mixin.__name__, (mixin,), {"__init_subclass__": classmethod(lambda cls: None)})
        return make.__new__(type(original), original.__name__, (quiet, original), dict(namespace))


def shallow(module: nn.Module) -> State:
    """Attributes of a module, with its own registries (of parameters, submodules, hooks) over the same entries.

    What `module.compile()` left is not among them: it calls the module that it was made for.
    """
    state = {k: copy.copy(v) if k in _INTERNALS else v for k, v in vars(module).items()}
    state.pop("_compiled_call_impl", None)
    return state


def second_tree(children: dict[str, nn.Module | None], look: Look) -> dict[str, nn.Module | None]:
    """Second modules for `children` and everything below; a module that is used twice is one module there, too.

    Wrappers for activation checkpointing are left out. Scripted modules, whose state is not in Python, are shared.
    """
    twins: dict[int, nn.Module] = {}

    def twin(module: nn.Module | None) -> nn.Module | None:
        if module is None or isinstance(module, torch.jit.ScriptModule):
            return module
        module = unwrapped(module)
        if id(module) not in twins:
            kind, state = look(module)
            second = twins[id(module)] = object.__new__(kind)
            vars(second).update(state)
            second._modules = {name: twin(child) for name, child in module._modules.items()}
        return twins[id(module)]

    return {name: twin(child) for name, child in children.items()}
