"""Modules of a transformed model that are called by anyone but its own code: they run with their hyper-connections."""

from __future__ import annotations

import warnings
import weakref
from collections.abc import Mapping
from typing import Any

import torch
from torch import nn

from mhc_compile import _torch_compat as compat
from mhc_compile._torch_compat import unwrapped
from mhc_compile.errors import CaptureError, DetachedModuleWarning
from mhc_compile.model.branches import WatchedBranch, branches_of
from mhc_compile.model.method_doors import set_method_doors
from mhc_compile.model.serve import call_entry
from mhc_compile.passes.split.nesting import HOSTED
from mhc_compile.programs.ownership import Served
from mhc_compile.twin.hosts import Hosted, original_forward, plain_calls
from mhc_compile.twin.names import lies_in, named_modules


class ModuleDoor:
    """The way into one module: a trace of that module alone, with the parameters of the sites inside."""

    def __init__(self, owner: Served, path: str) -> None:
        """For the module `path` of a model, which is known weakly: it holds the module, and is copied without this."""
        self._owners: list[tuple[weakref.ref[Served], str]] = []
        self.let_in(owner, path)

    def let_in(self, owner: Served, path: str) -> None:
        """Serve a model that shares the module, too; the first that is there serves the calls."""
        self._owners = [(known, name) for known, name in self._owners if known() not in (None, owner)]
        self._owners.append((weakref.ref(owner), path))

    def enter(self, module: nn.Module, args: tuple[Any, ...], kwargs: Mapping[str, Any]) -> Any:
        """The call `module(*args, **kwargs)`, with the hyper-connections inside."""
        for reference, path in self._owners:
            owner = reference()
            found = path if owner is None or _holds(owner, path, module) else _moved_to(owner, module)
            if owner is not None and found is not None:
                _check_exporting(owner, found)
                return call_entry(owner, owner._mhc.entry(found), args, kwargs)
        return _without(module, args, kwargs)

    def __reduce__(self) -> tuple[type[DetachedDoor], tuple[()]]:
        """A copy of the module, or what a pickle gives back, belongs to nobody, until its owner sets doors anew."""
        return DetachedDoor, ()


class DetachedDoor:
    """The way into a copy of a module whose model was not copied with it."""

    def enter(self, module: nn.Module, args: tuple[Any, ...], kwargs: Mapping[str, Any]) -> Any:
        """The call `module(*args, **kwargs)`, without hyper-connections, with a warning."""
        return _without(module, args, kwargs)


def set_doors(owner: Served) -> None:
    """Make a door of every module of `owner` that has sites inside, and of those that compute what a site adds."""
    sites = [site for plan in owner._mhc.plans for site in plan.sites]
    places, modules = {site.module for site in sites}, dict(named_modules(owner))
    branches, told, strict = branches_of(sites, modules), list[str](), owner._mhc.config.strict
    for path, module in modules.items():
        if isinstance(module, Hosted):
            inside = any(lies_in(place, path) for place in places)
            known = vars(module)[HOSTED].door
            if path not in branches:
                vars(module)[HOSTED].branch = None
            elif vars(module)[HOSTED].branch is None:
                vars(module)[HOSTED].branch = WatchedBranch(path, branches[path], told, strict=strict)
            if not inside or not path:
                vars(module)[HOSTED].door = None
            elif not isinstance(known, ModuleDoor):
                vars(module)[HOSTED].door = ModuleDoor(owner, path)
            else:  # `copy.copy` shares the modules of a model
                known.let_in(owner, path)
    set_method_doors(owner)


def _check_exporting(owner: Served, path: str) -> None:
    """Refuse an export of the module alone, whose parameters of sites belong to the model. Dynamo can do it.

    Raises:
        CaptureError: with what to write.
    """
    exporting = torch.compiler.is_exporting() and compat.dispatch_modes()  # in this thread: traces switch it on in all
    if exporting and not torch.compiler.is_dynamo_compiling():
        raise CaptureError(
            f"{path} is a part of a transformed {owner._mhc.original.__name__}, whose hyper_connections hold the new "
            "parameters: export the model, write torch.export.export(..., strict=True), or transform the part alone"
        )


def _holds(owner: Served, path: str, module: nn.Module) -> bool:
    found: Any = owner
    for part in path.split("."):
        found = unwrapped(found)._modules.get(part)
        if found is None:
            return False
    return unwrapped(found) is module


def _moved_to(owner: Served, module: nn.Module) -> str | None:
    """Where a module is that is no longer where it was, such as a block that changed its place."""
    return next((path for path, found in named_modules(owner) if found is module), None)


def _without(module: nn.Module, args: tuple[Any, ...], kwargs: Mapping[str, Any]) -> Any:
    warnings.warn(
        f"this {type(module).__name__} was taken out of a transformed model, or copied without it, and runs without "
        "hyper-connections: keep the model, or write mhc_compile.transform(module, ...) for a part that is used alone",
        DetachedModuleWarning,
        stacklevel=4,
    )
    with plain_calls():
        return original_forward(module)(module, *args, **kwargs)
