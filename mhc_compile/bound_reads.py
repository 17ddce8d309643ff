"""The reads of a trace as checks on the modules of one model, fast enough for every call."""

from __future__ import annotations

import re
from collections.abc import Callable, Mapping
from itertools import repeat
from operator import contains, getitem, itemgetter
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
    for name in bound.loading - reads.called - {next(iter(reads.classes))}:
        keep_loaded(modules[name])  # the program reads what such a module has, and calls no hook of it
    return bound


class BoundReads:
    """Looks up what a trace has read. Most of it is in the `__dict__` of some module, and compared without Python code.

    Modules are the same objects, of the same class, as when it was made; what else a model may become by `to()`,
    sharding or a wrapper is told by `holds`, and bound anew.
    """

    def __init__(self, reads: Reads, modules: Mapping[str, nn.Module]) -> None:
        """Look up where each value is kept; `loading` are the modules whose calls load offloaded tensors."""
        self._modules = list(modules.values())
        self._classes = [type(module) for module in self._modules]
        self._kinds, self._forwards = list(reads.forwards), list(reads.forwards.values())
        self._parents = [m._modules for m in self._modules if m._modules]
        self._children = [tuple(children.values()) for children in self._parents]
        loaded = loaded_devices(modules)
        self.loading = {name for name, _ in loaded.values()}
        self._loaded = {key: device for key, (_, device) in loaded.items()}
        self._sharded = bool(compat.sharded_dtypes(self._modules))
        self._attributes: dict[int, tuple[dict[str, Any], dict[str, Any]]] = {}
        self._absent: dict[str, list[dict[str, Any]]] = {}
        self._computed: list[tuple[Callable[[Any], Any], nn.Module, Read]] = []
        self._parameters: list[tuple[dict[str, Any], str, torch.dtype, torch.device]] = []
        for read in reads.values:
            self._add(modules[read.path], read)
        self._getters = [(itemgetter(*known), mapping, _values(known)) for mapping, known in self._attributes.values()]
        self._holders = [mapping for mapping, *_ in self._parameters]
        self._names = [name for _, name, *_ in self._parameters]
        self._dtypes = [dtype for *_, dtype, _ in self._parameters]
        self._devices = [device for *_, device in self._parameters]

    def holds(self) -> bool:
        """Whether everything still is as it was read."""
        try:
            return (
                list(map(type, self._modules)) == self._classes
                and [tuple(children.values()) for children in self._parents] == self._children
                and all(get(mapping) == values for get, mapping, values in self._getters)
                and not any(any(map(contains, them, repeat(name))) for name, them in self._absent.items())
                and self._same_parameters()
                and [kind.forward for kind in self._kinds] == self._forwards
                and all(agrees(read, value(module)) for value, module, read in self._computed)
            )
        except (KeyError, AttributeError, RuntimeError, ValueError):  # it is gone, or a tensor is where none was
            return False

    def problem(self) -> str:
        """The first value that is another than when it was read, "" if there is none."""
        for mapping, known in self._attributes.values():
            for name, value in known.items():
                found = mapping.get(name, MISSING)
                if found is not value and (type(found) is not type(value) or found != value):
                    return f"{name} is {_text(found)}, no longer {_text(value)}"
        for name, mappings in self._absent.items():
            if any(name in mapping for mapping in mappings):
                return f"a {name} was set on a module"
        for value, module, read in self._computed:
            if not agrees(read, value(module)):
                return f"{read.path}{read.tail} has changed"
        return "" if self.holds() else "a parameter has another dtype or device, or a class another forward"

    def _same_parameters(self) -> bool:
        parameters = list(map(getitem, self._holders, self._names))
        if self._sharded:
            seen = compat.sharded_dtypes(self._modules)
            dtypes = [seen.get(id(p), p.dtype) for p in parameters]
        else:
            dtypes = [p.dtype for p in parameters]
        devices = [p.device for p in parameters]
        return dtypes == self._dtypes and (devices == self._devices or self._are_loaded(devices))

    def _are_loaded(self, devices: list[torch.device]) -> bool:
        """Whether parameters that are offloaded now are where they were traced when they are used."""
        used = [
            self._loaded.get((id(holder), name), found) if found.type == "meta" else found
            for holder, name, found in zip(self._holders, self._names, devices, strict=True)
        ]
        return used == self._devices

    def _add(self, module: nn.Module, read: Read) -> None:
        named = _PARAMETER.match(read.tail)
        if read.kind == "parameter" and named:
            self._parameters.append((module._parameters, named[1], *read.value))
            return
        if read.kind == "absent" and not read.tail:
            self._absent.setdefault(read.value, []).append(vars(module))
            return
        holder, name = _kept(module, read.tail) if read.kind in ("equal", "same") else ({}, "")
        if name in holder:
            self._attributes.setdefault(id(holder), (holder, {}))[1][name] = read.value
        else:
            self._computed.append((evaluate(read.tail), module, read))


def _kept(module: nn.Module, tail: str) -> tuple[dict[str, Any], str]:
    """The dict in which a value is kept, and its name there; an empty one if it is in none."""
    named = _PARAMETER.match(tail)
    if named:
        return module._parameters, named[1]
    last = _LAST.match(tail)
    return (getattr(evaluate(last[1])(module), "__dict__", {}), last[2]) if last else ({}, "")


def _values(known: Mapping[str, Any]) -> Any:
    """What `itemgetter` gives for these names: a tuple, or the one value."""
    values = tuple(known.values())
    return values[0] if len(values) == 1 else values


def _text(value: Any) -> str:
    text = "gone" if value is MISSING else repr(value)
    return text if len(text) <= 40 else f"a {type(value).__name__}"
