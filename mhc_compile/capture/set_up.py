"""What a library does to a model at its first call, done before the first trace: a trace cannot take a lock."""

from __future__ import annotations

import importlib
import inspect
import sys
import warnings
from collections.abc import Mapping
from typing import Any

from torch import nn

from mhc_compile.twin.looks import trace_hooks_since
from mhc_compile.twin.module_tree import original_class

_LIBRARY = "transformers.utils.output_capturing"
_INSTALLER = "install_output_capuring_hook"
_INSTALLED = "_output_capturing_hooks_installed"


def finish_set_up(model: nn.Module) -> bool:
    """Install the hooks by which transformers collects hidden states and the like, where they are not there yet.

    They are a part of the traced code. Returns whether there was something to do.
    """
    library: Any = sys.modules.get(_LIBRARY)
    if library is None:
        return False
    waiting = [m for m in model.modules() if _collects(original_class(m)) and not getattr(m, _INSTALLED, False)]
    for module in waiting:
        if not getattr(module, _INSTALLED, False):  # it may lie inside one of those before
            with trace_hooks_since(model), warnings.catch_warnings():
                warnings.simplefilter("ignore")
                library.maybe_install_capturing_hooks(module)
                make_picklable(module)
    return bool(waiting)


def make_picklable(model: nn.Module) -> None:
    """Put hooks that a pickle can hold in the place of those by which transformers collects, whoever installed them."""
    installer = getattr(sys.modules.get(_LIBRARY), _INSTALLER, None)
    if installer is None:
        return
    wanted = [*inspect.signature(installer).parameters][1:]
    for hooks in (module._forward_hooks for module in model.modules()):
        for key, hook in hooks.items():
            if getattr(hook, "__qualname__", "").startswith(f"{_INSTALLER}."):
                inside = inspect.getclosurevars(hook).nonlocals
                if inside.keys() >= set(wanted):
                    hooks[key] = CapturingHook({name: inside[name] for name in wanted})


def _collects(kind: type[nn.Module]) -> bool:
    """Whether the forward of a class is decorated with `capture_outputs`, which would install the hooks."""
    forward: Any = kind.forward
    while forward is not None:
        if getattr(getattr(forward, "__code__", None), "co_qualname", "").startswith("capture_outputs."):
            return True
        forward = getattr(forward, "__wrapped__", None)
    return False


class CapturingHook:
    """A hook of the library in a form that a pickle can hold: the library's own is a function inside another."""

    def __init__(self, asked: Mapping[str, Any]) -> None:
        """`asked` are the arguments of the function that installs it."""
        holder = nn.Module()
        getattr(importlib.import_module(_LIBRARY), _INSTALLER)(holder, **asked)
        self._asked, self._hook = dict(asked), next(iter(holder._forward_hooks.values()))

    def __call__(self, module: nn.Module, args: Any, output: Any) -> Any:
        """What the library's hook does."""
        return self._hook(module, args, output)

    def __reduce__(self) -> tuple[Any, ...]:
        """A pickle holds the arguments."""
        return CapturingHook, (self._asked,)
