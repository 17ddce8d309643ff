"""The reads of a trace as checks on the modules of one model, fast enough for every call."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from itertools import repeat
from operator import contains, getitem
from typing import Any

import torch
from torch import nn

from mhc_compile import _torch_compat as compat
from mhc_compile.capture.places import MISSING, evaluate
from mhc_compile.capture.read import Read, agrees
from mhc_compile.capture.reads import Reads
from mhc_compile.programs.bound_attributes import BoundAttributes, is_fixed
from mhc_compile.programs.holders import holder_of_tensor, steps_to
from mhc_compile.twin.names import named_modules
from mhc_compile.twin.offload import keep_loaded, loaded_devices
from mhc_compile.twin.parallel import is_parallel
from mhc_compile.wording import names_text


def bind(reads: Reads, model: nn.Module) -> BoundReads | str:
    """Checks on the modules of `model`; where they fail already, what is not as it was when the trace was made."""
    modules = dict(named_modules(model))
    if is_parallel(list(model.modules())) != bool(reads.parallel):
        return "its modules were distributed over processes, or are no longer"
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
    """Looks up what a trace has read. Most of it is in the `__dict__` of some module, and compared without Python code.

    Modules are the same objects, of the same class, as when it was made; what else a model may become by `to()`,
    sharding or a wrapper is told by `holds`, and bound anew.
    """

    def __init__(self, reads: Reads, modules: Mapping[str, nn.Module]) -> None:
        """Look up where each value is kept; `uncalled` are modules with offloaded tensors whose hooks do not run."""
        self._modules = list(modules.values())
        self._classes = [type(module) for module in self._modules]
        self._looked_up, self._in_classes = list(reads.looked_up), list(reads.looked_up.values())
        self._parents = [m._modules for m in self._modules if m._modules]
        self._children = [tuple(children.values()) for children in self._parents]
        loaded = loaded_devices(modules)
        called = reads.called | {next(iter(reads.classes))}
        self.uncalled = {name for name, _ in loaded.values()} - called
        self._loadable = {key: device for key, (_, device) in loaded.items()}
        self._loaded = {key: device for key, (name, device) in loaded.items() if name in called}
        self._sharded = bool(compat.sharded_dtypes(self._modules))
        self._attributes = BoundAttributes()
        self._on_the_way: dict[tuple[int, str], tuple[Mapping[str, Any], str, Any]] = {}
        self._types: dict[tuple[int, str], tuple[Mapping[str, Any], str, type, str]] = {}
        self._absent: dict[str, tuple[list[dict[str, Any]], list[tuple[Any, Read]]]] = {}
        self._computed: list[tuple[Callable[[Any], Any], Any, Read]] = []
        self._parameters: list[tuple[dict[str, Any], str, torch.dtype, torch.device, torch.Size, bool | None]] = []
        self._tied: list[tuple[dict[str, Any], str, dict[str, Any], str]] = []
        for read in reads.values:
            if read.kind == "tied":
                self._tie(read, modules)
            else:
                self._add(read.start(modules), read)
        self._passed = list(self._on_the_way.values())
        known = self._attributes.places | self._on_the_way.keys()
        self._typed = [entry for at, entry in self._types.items() if at not in known]
        self._hooks = [r for m in self._modules for r in (m._forward_pre_hooks, m._forward_hooks)]
        self._hook_counts = list(map(len, self._hooks))
        self._holders = [mapping for mapping, *_ in self._parameters]
        self._names = [name for _, name, *_ in self._parameters]
        self._dtypes = [dtype for _, _, dtype, *_ in self._parameters]
        self._kinds = [] if self._sharded else [type(mapping.get(name)) for mapping, name, *_ in self._parameters]
        self._devices = [device for *_, device, _, _ in self._parameters]
        self._shapes = [] if self._sharded else [shape for *_, shape, _ in self._parameters]
        self._required = [flag for *_, flag in self._parameters if flag is not None]  # all of them, or none
        self._as_checked: Callable[[list[Any]], bool] | None = None

    def holds(self) -> bool:
        """Whether everything still is as it was read."""
        return self._all_hold(self._loaded)

    def other_values(self) -> bool:
        """Whether attributes are others on modules that are the same: then binding anew would find the same."""
        try:
            return self._in_place() and not self._attributes.hold()
        except (KeyError, RuntimeError, ValueError):
            return False

    def problem(self) -> str:
        """The first value that is another than when it was read, "" if there is none."""
        if changed := self._attributes.problem():
            return changed
        for mapping, key, value in self._passed:
            if mapping.get(key, MISSING) is not value:
                return f"{key} was replaced"
        for mapping, key, kind, name in self._typed:
            if type(mapping.get(key, MISSING)) is not kind:
                return f"{name} is no longer a {kind.__name__}"
        if not self._still_tied():
            return "two names that had one tensor have two"
        if not self._still_absent():
            return f"{names_text(list(self._absent))} was set on a module"
        for value, module, read in self._computed:
            if not agrees(read, value(module)):
                return f"{read.named()} has changed"
        for (kind, name), value in zip(self._looked_up, self._in_classes, strict=True):
            if getattr(kind, name, MISSING) != value:
                return f"{kind.__name__}.{name} has changed"
        return (
            ""
            if self._all_hold(self._loadable)
            else "a parameter has another dtype, device or shape, or is frozen or not as before"
        )

    def _all_hold(self, loaded: Mapping[tuple[int, str], torch.device]) -> bool:
        try:
            return (
                self._in_place()
                and self._attributes.hold()
                and all([type(mapping[name]) is kind for mapping, name, kind, _ in self._typed])
                and self._still_tied()
                and self._still_absent()
                and self._same_parameters(loaded)
                and [getattr(kind, name, MISSING) for kind, name in self._looked_up] == self._in_classes
                and all(agrees(read, value(start)) for value, start, read in self._computed)
            )
        except (KeyError, AttributeError, RuntimeError, ValueError):  # it is gone, or a tensor is where none was
            return False

    def _in_place(self) -> bool:
        """Whether modules, and objects on the way to a value, are those that they were."""
        return (
            list(map(type, self._modules)) == self._classes
            and [tuple(children.values()) for children in self._parents] == self._children
            and all([mapping[name] is value for mapping, name, value in self._passed])
            and list(map(len, self._hooks)) == self._hook_counts
        )

    def _still_tied(self) -> bool:
        """Offloaded, they are two that stand for one."""
        pairs = [(one.get(key), other.get(its)) for one, key, other, its in self._tied]
        return all(found is known or getattr(found, "is_meta", False) for found, known in pairs)

    def _still_absent(self) -> bool:
        for name, (mappings, reads) in self._absent.items():
            there = any(map(contains, mappings, repeat(name)))
            if there and not all(agrees(read, module) for module, read in reads):
                return False
        return True

    def _same_parameters(self, loaded: Mapping[tuple[int, str], torch.device]) -> bool:
        parameters = list(map(getitem, self._holders, self._names))
        if self._as_checked is not None and self._as_checked(parameters):
            return True  # nothing that is looked at below is another than when it was looked at last
        if not self._fit(parameters, loaded):
            return False
        self._as_checked = None if self._sharded else compat.same_tensors(parameters)
        return True

    def _fit(self, parameters: list[Any], loaded: Mapping[tuple[int, str], torch.device]) -> bool:
        if self._kinds and list(map(type, parameters)) != self._kinds:
            return False  # distributed since
        if self._sharded:
            seen = compat.sharded_dtypes(self._modules)
            dtypes = [seen.get(id(p), p.dtype) for p in parameters]
        else:
            dtypes = [p.dtype for p in parameters]
        devices = [p.device for p in parameters]
        if self._required and [p.requires_grad for p in parameters] != self._required:
            return False
        if self._shapes and [p.shape for p in parameters] != self._shapes:
            return False
        return dtypes == self._dtypes and (devices == self._devices or self._are_loaded(devices, loaded))

    def _are_loaded(self, devices: list[torch.device], loaded: Mapping[tuple[int, str], torch.device]) -> bool:
        """Whether parameters that are offloaded now are where they were traced when they are used."""
        used = [
            loaded.get((id(holder), name), found) if found.type == "meta" else found
            for holder, name, found in zip(self._holders, self._names, devices, strict=True)
        ]
        return used == self._devices

    def _tie(self, read: Read, modules: Mapping[str, nn.Module]) -> None:
        other = read.value
        holders = holder_of_tensor(read.start(modules), read.tail), holder_of_tensor(modules[other.path], other.tail)
        if holders[0] is not None and holders[1] is not None:
            self._tied.append((*holders[0], *holders[1]))

    def _add(self, start: Any, read: Read) -> None:
        holder = holder_of_tensor(start, read.tail) if read.kind == "parameter" else None
        if holder is not None:
            self._parameters.append((*holder, *read.value))
            return
        if read.kind == "absent" and not read.tail:
            mappings, reads = self._absent.setdefault(read.value, ([], []))
            mappings.append(vars(start))
            reads.append((start, read))
            return
        steps = steps_to(start, read.tail) if read.kind in ("equal", "same", "type") else None
        if not steps or (read.kind == "equal" and not is_fixed(read.value)):
            self._computed.append((evaluate(read.tail), start, read))
            return
        for mapping, key in steps[:-1]:
            self._on_the_way[id(mapping), key] = (mapping, key, mapping[key])
        mapping, key = steps[-1]
        if isinstance(read.value, torch.Tensor):  # it is not to be compared by its values
            self._on_the_way[id(mapping), key] = (mapping, key, read.value)
            return
        if read.kind == "type":
            self._types[id(mapping), key] = (mapping, key, read.value, read.named())
            return
        self._attributes.add(mapping, key, read)
