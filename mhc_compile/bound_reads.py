"""The reads of a trace as checks on the modules of one model, fast enough for every call."""

from __future__ import annotations

import re
import types
from collections.abc import Mapping
from typing import Any

import torch
from torch import nn

from mhc_compile import _torch_compat as compat
from mhc_compile.places import MISSING, evaluate
from mhc_compile.reads import Read, Reads, agrees, named_modules

_STEP = re.compile(r"\.(\w+)|\['([^']+)'\]")
_PARAMETER = re.compile(r"^\._parameters\['([^']+)'\]$")


def bind(reads: Reads, model: nn.Module) -> BoundReads | str:
    """Checks on the modules of `model`; where they fail already, what is not as it was when the trace was made."""
    modules = dict(named_modules(model))
    problem = reads.other_modules(modules)
    if problem:
        return problem
    bound = BoundReads(reads, {name: modules[name] for name in reads.classes})
    return bound.problem() or bound


class BoundReads:
    """Looks up what a trace has read. Most of it is in the `__dict__` of some module: one lookup each, in plain lists.

    Modules are the same objects, of the same class, as when it was made; what else a model may become by `to()`,
    sharding or a wrapper is told by `holds`, and bound anew.
    """

    def __init__(self, reads: Reads, modules: Mapping[str, nn.Module]) -> None:
        """Look up where each value is kept."""
        self._modules = list(modules.values())
        self._classes = [(module, type(module)) for module in modules.values()]
        self._forwards = list(reads.forwards.items())
        self._children = [(m._modules, key, child) for m in modules.values() for key, child in m._modules.items()]
        self._sizes = [(m._modules, len(m._modules)) for m in modules.values()]
        self._entries: dict[tuple[int, str], tuple[Mapping[str, Any], str, Any, str]] = {}
        self._types: dict[tuple[int, str], tuple[Mapping[str, Any], str, type, str]] = {}
        self._holders: dict[tuple[int, str], tuple[Mapping[str, Any], str, Any]] = {}
        self._others: list[tuple[Any, Read]] = []
        self._parameters: list[tuple[dict[str, Any], str, torch.dtype, torch.device]] = []
        self._sharded = bool(compat.sharded_dtypes(self._modules))
        for read in reads.values:
            self._add(read.start(modules), read)
        self._listed = [entry[:3] for entry in self._entries.values()]
        known = (self._entries.keys(), self._holders.keys())
        self._typed = [entry for key, entry in self._types.items() if not any(key in keys for keys in known)]
        self._passed = list(self._holders.values())
        self._computed = [(evaluate(read.tail), start, read) for start, read in self._others]

    def holds(self) -> bool:
        """Whether everything still is as it was read."""
        for mapping, key, value in self._passed:  # objects on the way to what was read
            if mapping.get(key) is not value:
                return False
        for mapping, key, kind, _ in self._typed:
            if type(mapping.get(key, MISSING)) is not kind:
                return False
        for mapping, key, value in self._listed:
            found = mapping.get(key, MISSING)
            if found is not value and (type(found) is not type(value) or found != value):
                return False
        seen = compat.sharded_dtypes(self._modules) if self._sharded else {}
        for mapping, key, dtype, device in self._parameters:
            parameter = mapping.get(key)
            if parameter is None or seen.get(id(parameter), parameter.dtype) != dtype or parameter.device != device:
                return False
        return self._same_modules() and all(agrees(read, value(module)) for value, module, read in self._computed)

    def problem(self) -> str:
        """The first value that is another than when it was read, "" if there is none."""
        for mapping, key, value, name in self._entries.values():
            found = mapping.get(key, MISSING)
            if found is not value and (type(found) is not type(value) or found != value):
                return f"{name} is {_text(found)}, no longer {_text(value)}"
        for mapping, key, kind, name in self._typed:
            if type(mapping.get(key, MISSING)) is not kind:
                return f"{name} is no longer a {kind.__name__}"
        seen = compat.sharded_dtypes(self._modules)
        for mapping, key, dtype, device in self._parameters:
            p = mapping.get(key)
            if p is None or (seen.get(id(p), p.dtype), p.device) != (dtype, device):
                return f"the parameter {key} is no longer {dtype} on {device}"
        for value, module, read in self._computed:
            if not agrees(read, value(module)):
                return f"{read.named()} has changed"
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

    def _add(self, start: Any, read: Read) -> None:
        named = _PARAMETER.match(read.tail)
        if read.kind == "parameter" and named:
            self._parameters.append((start._parameters, named[1], *read.value))
            return
        steps = _steps(start, read.tail) if read.kind in ("equal", "same", "type") else None
        if not steps:
            self._others.append((start, read))
            return
        for mapping, key in steps[:-1]:
            self._holders[id(mapping), key] = (mapping, key, mapping[key])
        mapping, key = steps[-1]
        if read.kind == "type":
            self._types[id(mapping), key] = (mapping, key, read.value, read.named())
            return
        self._entries[id(mapping), key] = (mapping, key, read.value, read.named())


def _steps(start: Any, tail: str) -> list[tuple[Mapping[str, Any], str]] | None:
    """The way from `start` to a value as lookups in dicts; None where there is another step in it."""
    steps: list[tuple[Mapping[str, Any], str]] = []
    rest, value = tail, start
    while rest:
        step = _STEP.match(rest)
        if step is None:
            return None
        mapping, key = (value, step[2]) if step[2] else (getattr(value, "__dict__", None), step[1])
        if not isinstance(mapping, (dict, types.MappingProxyType)) or key not in mapping:
            return None
        steps.append((mapping, key))
        rest, value = rest[step.end() :], mapping[key]
    return steps


def _text(value: Any) -> str:
    text = "gone" if value is MISSING else repr(value)
    return text if len(text) <= 40 else f"a {type(value).__name__}"
