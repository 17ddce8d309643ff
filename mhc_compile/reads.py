"""What a trace has read in a model and taken for constant: attributes, flags, classes, hooks, dtypes of parameters.

Dynamo lists it as the guards of the trace. They are looked up on the live modules at every call, so that a program is
never used once something that it has read is another value.
"""

from __future__ import annotations

import re
from collections.abc import Callable, Iterable, Iterator, Mapping
from dataclasses import dataclass, replace
from enum import Enum
from typing import Any

import torch
from torch import nn

from mhc_compile import _torch_compat as compat
from mhc_compile.hosts import Hosted
from mhc_compile.hyper_connections import CHILD
from mhc_compile.module_tree import HOOKS, original_class
from mhc_compile.offload import computes_as_its_class

MISSING = object()
"""What `evaluate` gives where there is no such value (any more)."""

_MODULES = re.compile(r"^((?:\._modules\['[^']+'\])*)(.*)$")
_ITEM = re.compile(r"\['([^']+)'\]")
_HOOKS = frozenset(f".{name}" for name in (*HOOKS, "_backward_hooks", "_backward_pre_hooks"))
_SIMPLE = (type(None), bool, int, float, complex, str, bytes, torch.dtype, torch.device, torch.Size, Enum)
_CONSTANT = frozenset({"CONSTANT_MATCH", "EQUALS_MATCH", "BOOL_MATCH", "NONE_MATCH", "TORCH_DTYPE_MATCH"})
_IDENTITY = frozenset({"ID_MATCH", "FUNCTION_MATCH", "CLOSURE_MATCH", "CLASS_MATCH", "MODULE_MATCH", "BUILTIN_MATCH"})
_LENGTH = frozenset({"SEQUENCE_LENGTH", "LIST_LENGTH", "DICT_LENGTH", "SET_LENGTH"})


@dataclass(frozen=True)
class Read:
    """One value that a trace depends on.

    Attributes:
        path: name of the module in which it was found, "" for the model itself.
        tail: the way from the module to the value as an expression, such as `.p` or `.config.hidden_act`.
        kind: `equal`, `same` (the object itself), `length`, `keys`, `absent` or `parameter`.
        value: what it was; for `absent` the name of the attribute, for `parameter` dtype and device.
    """

    path: str
    tail: str
    kind: str
    value: Any


def reads_of(model: nn.Module, guards: Iterable[tuple[str, str, Mapping[str, Any]]]) -> tuple[Read, ...]:
    """The reads behind Dynamo's guards.

    Args:
        model: what was traced, in the state it was traced in.
        guards: kind, name from the model on (`._modules['drop'].p`) and arguments of each guard.
    """
    found: dict[tuple[str, str, str], Read] = {}
    for kind, name, arguments in guards:
        read = _read(model, kind, name, arguments)
        if read is not None:
            found.setdefault((read.path, read.tail, read.kind), read)
    return tuple(found.values())


def _read(model: nn.Module, kind: str, name: str, arguments: Mapping[str, Any]) -> Read | None:
    matched = _MODULES.match(name)
    if matched is None:
        return None
    path, tail = ".".join(_ITEM.findall(matched[1])), matched[2]
    if tail.startswith(tuple(_HOOKS)) and kind != "EMPTY_NN_MODULE_HOOKS_DICT":
        return None  # hooks that were traced stay; later ones are looked at where the dict was empty
    if kind == "NOT_PRESENT_IN_GENERIC_DICT":
        return Read(path, tail, "absent", arguments["attr"])
    value = evaluate(tail)(_module(model, path))
    if value is MISSING or isinstance(value, nn.Module):
        return None  # modules are compared one by one
    if kind == "TENSOR_MATCH" and isinstance(value, nn.Parameter):
        return Read(path, tail, "parameter", (value.dtype, value.device))
    if kind in _CONSTANT and _is_simple(value):
        return Read(path, tail, "equal", value)
    if kind in _IDENTITY and not _is_simple(value):
        return Read(path, tail, "same", value)
    if kind == "EMPTY_NN_MODULE_HOOKS_DICT":
        return Read(path, tail, "length", len(value))
    if kind in _LENGTH and hasattr(value, "__len__"):
        return Read(path, tail, "length", len(value))
    if kind.startswith("DICT_KEYS") and isinstance(value, Mapping) and tail != "._modules":
        return Read(path, tail, "keys", tuple(value))
    return None


def _is_simple(value: Any) -> bool:
    if isinstance(value, (tuple, list)):
        return all(map(_is_simple, value))
    return isinstance(value, _SIMPLE)


def evaluate(tail: str) -> Callable[[Any], Any]:
    """`lambda root: root<tail>`, or `MISSING`."""
    get = eval(f"lambda root: root{tail}", {}) if tail else lambda root: root  # an expression that Dynamo evaluates too

    def value(root: Any) -> Any:
        try:
            return get(root)
        except (AttributeError, KeyError, IndexError, TypeError):
            return MISSING

    return value


def agrees(read: Read, found: Any) -> bool:
    """Whether what is found now, or `MISSING`, is what was read."""
    if read.kind == "absent":
        if found is MISSING or read.value not in getattr(found, "__dict__", ()):
            return True
        return read.value == "forward" and computes_as_its_class(found)
    if found is MISSING:
        return False
    if read.kind == "length":
        return len(found) == read.value
    if read.kind == "keys":
        return tuple(found) == read.value
    if read.kind == "parameter":
        return isinstance(found, torch.Tensor) and found.device == read.value[1]
    return found is read.value or (read.kind == "equal" and type(found) is type(read.value) and found == read.value)


def _module(root: nn.Module, path: str) -> nn.Module | None:
    """A submodule, looking through wrappers for activation checkpointing; None if there is none."""
    module: nn.Module | None = root
    for part in path.split(".") if path else ():
        module = None if module is None else compat.unwrapped(module)._modules.get(part)
    return None if module is None else compat.unwrapped(module)


@dataclass(frozen=True)
class Reads:
    """All that one trace has read.

    Attributes:
        values: what was read.
        classes: name of each module -> its class, without what this package derives from it.
        forwards: class -> the forward it had.
        called: names of the modules that the program calls.
    """

    values: tuple[Read, ...]
    classes: Mapping[str, type[nn.Module]]
    forwards: Mapping[type[nn.Module], Any]
    called: frozenset[str] = frozenset()

    @classmethod
    def of(cls, model: nn.Module, guards: Iterable[tuple[str, str, Mapping[str, Any]]], path: str = "") -> Reads:
        """What a trace of `model`, or of its module `path`, has read, by its guards; see `reads_of`."""
        modules: dict[str, nn.Module] = {n: m for n, m in named_modules(model) if lies_in(n, path)}
        names = {id(module): name for name, module in modules.items()}
        classes = {name: original_class(module) for name, module in modules.items()}
        named = [(names.get(id(_module(model, read.path))), read) for read in reads_of(model, guards)]
        inside = tuple(replace(read, path=name) for name, read in named if name is not None)
        return cls(inside, classes, {kind: kind.forward for kind in classes.values()})

    def of_program(self, called: frozenset[str]) -> Reads:
        """The same for a program that calls these modules, so that their hooks run without being traced."""
        begun = next(iter(self.classes))  # is called already: by its hooks, and by a forward that was set around it
        values = tuple(
            r
            for r in self.values
            if not (r.tail in _HOOKS and (r.path in called or r.path == begun))
            and not (r.kind == "absent" and r.path == begun)
        )
        return replace(self, values=values, called=called)

    def found_in(self, model: nn.Module) -> Reads:
        """The same without what is another value on `model`, for which the trace was made just now.

        The traced modules stand for those of `model` and have other classes, which a few of Dynamo's guards look at.
        """
        values = tuple(r for r in self.values if agrees(r, evaluate(r.tail)(_module(model, r.path))))
        return replace(self, values=values)

    def attributes(self) -> Iterator[tuple[str, str, Any]]:
        """Numbers, flags and texts that are attributes of modules: module, attribute, value."""
        for read in self.values:
            name = read.tail.removeprefix(".")
            if read.kind == "equal" and name.isidentifier() and isinstance(read.value, (bool, int, float, str)):
                yield read.path, name, read.value

    def other_modules(self, modules: Mapping[str, nn.Module]) -> str:
        """What differs in the module tree, "" if nothing does."""
        for name, kind in self.classes.items():
            if name not in modules:
                return f"{name} is gone"
            now = original_class(modules[name])
            if now is not kind:
                return f"{name or 'the model'} is a {now.__name__}, no longer a {kind.__name__}"
            if name in self.called and not isinstance(modules[name], Hosted):
                return f"{name} was replaced"
        root = next(iter(self.classes))
        return next((f"{name} is new" for name in modules if lies_in(name, root) and name not in self.classes), "")


def lies_in(name: str, path: str) -> bool:
    """Whether a module is the one called `path`, or inside it."""
    return not path or name == path or name.startswith(f"{path}.")


def named_modules(model: nn.Module) -> Iterator[tuple[str, nn.Module]]:
    """Modules by their first name, without wrappers for checkpointing and without the hyper-connections."""
    seen: set[int] = set()

    def walk(module: nn.Module, name: str) -> Iterator[tuple[str, nn.Module]]:
        module = compat.unwrapped(module)
        if id(module) in seen:
            return
        seen.add(id(module))
        yield name, module
        for key, child in module._modules.items():
            if child is not None and (name or key != CHILD):
                yield from walk(child, f"{name}.{key}" if name else key)

    return walk(model, "")
