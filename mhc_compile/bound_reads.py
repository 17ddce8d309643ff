"""The reads of a trace as checks on the modules of one model, fast enough for every call."""

from __future__ import annotations

import re
from collections.abc import Mapping
from typing import Any

import torch
from torch import nn

from mhc_compile import _torch_compat as compat
from mhc_compile.offload import keep_loaded, loaded_devices
from mhc_compile.reads import MISSING, Read, Reads, agrees, evaluate, named_modules

_LAST = re.compile(r"^(.*)\.(\w+)$")
_PARAMETER = re.compile(r"^\._parameters\['([^']+)'\]$")


def bind(reads: Reads, model: nn.Module) -> BoundReads | str:
    """Checks on the modules of `model`; where they fail already, what is not as it was when the trace was made."""
    modules = dict(named_modules(model))
    problem = reads.other_modules(modules)
    if problem:
        return problem
    bound = BoundReads(reads, {name: modules[name] for name in reads.classes})
    problem = bound.problem()
    if problem:
        return problem
    for name in bound.uncalled:
        keep_loaded(modules[name])  # the program reads what such a module has, and calls no hook of it
    return bound


class BoundReads:
    """Looks up what a trace has read. Most of it is in the `__dict__` of some module: one lookup each, in plain lists.

    Modules are the same objects, of the same class, as when it was made; what else a model may become by `to()`,
    sharding or a wrapper is told by `holds`, and bound anew.
    """

    def __init__(self, reads: Reads, modules: Mapping[str, nn.Module]) -> None:
        """Look up where each value is kept; `uncalled` are modules with offloaded tensors whose hooks do not run."""
        self._modules = list(modules.values())
        self._classes = [(module, type(module)) for module in modules.values()]
        self._forwards = list(reads.forwards.items())
        self._children = [(m._modules, key, child) for m in modules.values() for key, child in m._modules.items()]
        self._sizes = [(m._modules, len(m._modules)) for m in modules.values()]
        self._entries: dict[tuple[int, str], tuple[dict[str, Any], str, Any, str]] = {}
        self._others: list[tuple[Any, Read]] = []
        self._parameters: list[tuple[dict[str, Any], str, torch.dtype, torch.device]] = []
        loaded = loaded_devices(modules)
        called = reads.called | {next(iter(reads.classes))}
        self.uncalled = {name for name, _ in loaded.values()} - called
        self._loadable = {key: device for key, (_, device) in loaded.items()}
        self._loaded = {key: device for key, (name, device) in loaded.items() if name in called}
        self._sharded = bool(compat.sharded_dtypes(self._modules))
        for read in reads.values:
            self._add(modules[read.path], read)
        self._listed = [entry[:3] for entry in self._entries.values()]
        self._computed = [(evaluate(read.tail), module, read) for module, read in self._others]

    def holds(self) -> bool:
        """Whether everything still is as it was read."""
        for mapping, key, value in self._listed:
            found = mapping.get(key, MISSING)
            if found is not value and (type(found) is not type(value) or found != value):
                return False
        seen = compat.sharded_dtypes(self._modules) if self._sharded else {}
        for mapping, key, dtype, device in self._parameters:
            parameter = mapping.get(key)
            if parameter is None or seen.get(id(parameter), parameter.dtype) != dtype:
                return False
            if parameter.device != device and not _loads(self._loaded, mapping, key, parameter, device):
                return False
        return self._same_modules() and all(agrees(read, value(module)) for value, module, read in self._computed)

    def problem(self) -> str:
        """The first value that is another than when it was read, "" if there is none."""
        for mapping, key, value, name in self._entries.values():
            found = mapping.get(key, MISSING)
            if found is not value and (type(found) is not type(value) or found != value):
                return f"{name} is {_text(found)}, no longer {_text(value)}"
        seen = compat.sharded_dtypes(self._modules)
        for mapping, key, dtype, device in self._parameters:
            p = mapping.get(key)
            at_hand = p is not None and (p.device == device or _loads(self._loadable, mapping, key, p, device))
            if p is None or not at_hand or seen.get(id(p), p.dtype) != dtype:
                return f"the parameter {key} is no longer {dtype} on {device}"
        for value, module, read in self._computed:
            if not agrees(read, value(module)):
                return f"{read.path}{read.tail} has changed"
        return "" if self._same_modules() else "the forward of a class has changed"

    def _same_modules(self) -> bool:
        for mapping, key, child in self._children:
            if mapping.get(key, MISSING) is not child:
                return False
        for mapping, size in self._sizes:
            if len(mapping) != size:
                return False
        for module, kind in self._classes:
            if type(module) is not kind:
                return False
        return all(kind.forward is forward for kind, forward in self._forwards)

    def _add(self, module: nn.Module, read: Read) -> None:
        named = _PARAMETER.match(read.tail)
        if read.kind == "parameter" and named:
            self._parameters.append((module._parameters, named[1], *read.value))
            return
        last = _LAST.match(read.tail)
        holder = evaluate(last[1])(module) if last and read.kind in ("equal", "same") else MISSING
        if last and last[2] in getattr(holder, "__dict__", ()):
            name = f"{read.path}{read.tail}".lstrip(".")
            self._entries[id(holder.__dict__), last[2]] = (holder.__dict__, last[2], read.value, name)
        else:
            self._others.append((module, read))


def _loads(loaded: Mapping[Any, Any], mapping: Any, key: str, parameter: torch.Tensor, device: torch.device) -> bool:
    """Whether a parameter is offloaded now, and on the device when it is used."""
    return parameter.is_meta and loaded.get((id(mapping), key)) == device


def _text(value: Any) -> str:
    text = "gone" if value is MISSING else repr(value)
    return text if len(text) <= 40 else f"a {type(value).__name__}"
