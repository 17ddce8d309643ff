"""Modules of a transformed model that are called by anyone but its own code: they run with their hyper-connections."""

from __future__ import annotations

import warnings
import weakref
from collections.abc import Mapping
from typing import Any

from torch import nn

from mhc_compile._torch_compat import unwrapped
from mhc_compile.errors import DetachedModuleWarning
from mhc_compile.hosts import Hosted, original_forward, plain_calls
from mhc_compile.ownership import Served
from mhc_compile.passes.nesting import HOSTED
from mhc_compile.reads import lies_in, named_modules
from mhc_compile.serve import call_entry


class ModuleDoor:
    """The way into one module: a trace of that module alone, with the parameters of the sites inside.

    Attributes:
        path: name of the module in its owner.
    """

    def __init__(self, owner: Served, path: str) -> None:
        """Know the owner weakly: it holds the module, and may be copied without this."""
        self.path = path
        self._owner = weakref.ref(owner)

    def enter(self, module: nn.Module, args: tuple[Any, ...], kwargs: Mapping[str, Any]) -> Any:
        """The call `module(*args, **kwargs)`, with the hyper-connections inside."""
        owner = self._owner()
        if owner is None or not _holds(owner, self.path, module):
            return _without(module, args, kwargs)
        return call_entry(owner, owner._mhc.entry(self.path), args, kwargs)

    def __reduce__(self) -> tuple[type[DetachedDoor], tuple[()]]:
        """A copy of the module, or what a pickle gives back, belongs to nobody, until its owner sets doors anew."""
        return DetachedDoor, ()


class DetachedDoor:
    """The way into a copy of a module whose model was not copied with it."""

    def enter(self, module: nn.Module, args: tuple[Any, ...], kwargs: Mapping[str, Any]) -> Any:
        """The call `module(*args, **kwargs)`, without hyper-connections, with a warning."""
        return _without(module, args, kwargs)


def set_doors(owner: Served) -> None:
    """Make a door of every module of `owner` that has sites inside."""
    places = {site.module for plan in owner._mhc.plans for site in plan.sites}
    for path, module in named_modules(owner):
        if isinstance(module, Hosted):
            inside = any(lies_in(place, path) for place in places)
            vars(module)[HOSTED].door = ModuleDoor(owner, path) if inside and path else None


def _holds(owner: Served, path: str, module: nn.Module) -> bool:
    found: Any = owner
    for part in path.split("."):
        found = unwrapped(found)._modules.get(part)
        if found is None:
            return False
    return unwrapped(found) is module


def _without(module: nn.Module, args: tuple[Any, ...], kwargs: Mapping[str, Any]) -> Any:
    warnings.warn(
        f"this {type(module).__name__} was taken out of a transformed model, or copied without it, and runs without "
        "hyper-connections: keep the model, or write mhc_compile.transform(module, ...) for a part that is used alone",
        DetachedModuleWarning,
        stacklevel=4,
    )
    with plain_calls():
        return original_forward(module)(module, *args, **kwargs)
