"""What a trace has read and taken for constant: attributes, flags, classes, hooks, dtypes of parameters, globals.

Dynamo lists it as the guards of the trace. They are looked up on the live modules, and where they lie outside of the
model, at every call, so that a program is never used once something that it has read is another value.
"""

from __future__ import annotations

import copy
import os
import re
import types
from collections.abc import Collection, Iterable, Mapping
from dataclasses import dataclass, replace
from enum import Enum
from typing import Any

import torch
from torch import nn

from mhc_compile.capture import guards
from mhc_compile.capture.places import MISSING, Place, evaluate, place_of, submodule
from mhc_compile.twin.hosts import Hosted
from mhc_compile.twin.module_tree import HOOKS, original_class
from mhc_compile.twin.names import lies_in, named_modules
from mhc_compile.twin.offload import computes_as_its_class

_HOOKS = frozenset(f".{name}" for name in (*HOOKS, "_backward_hooks", "_backward_pre_hooks"))
_SIMPLE = (type(None), bool, int, float, complex, str, bytes, torch.dtype, torch.device, torch.Size, Enum)
_CONSTANT = frozenset(
    {"CONSTANT_MATCH", "CONSTANT_SUBCLASS_MATCH", "EQUALS_MATCH", "BOOL_MATCH", "NONE_MATCH", "TORCH_DTYPE_MATCH"}
)
_REBOUND = (types.FunctionType, types.MethodType)
_BUFFER = re.compile(r"\._buffers\['[^']+'\]$")
_IDENTITY = frozenset({"ID_MATCH", "FUNCTION_MATCH", "CLOSURE_MATCH", "CLASS_MATCH", "MODULE_MATCH", "BUILTIN_MATCH"})
_LENGTH = frozenset({"SEQUENCE_LENGTH", "LIST_LENGTH", "DICT_LENGTH", "SET_LENGTH"})
_CONTAINS = {"DICT_CONTAINS": True, "DICT_NOT_CONTAINS": False, "SET_CONTAINS": True, "SET_NOT_CONTAINS": False}
_STATE = (
    torch.get_default_dtype,
    torch.are_deterministic_algorithms_enabled,
    torch.is_deterministic_algorithms_warn_only_enabled,
    torch.distributed.is_initialized,
)
"""Functions of PyTorch whose results Dynamo takes for constant, and that somebody may change between calls."""


@dataclass(frozen=True)
class Read:
    """One value that a trace depends on.

    Attributes:
        place: where it was found.
        kind: `equal`, `same` (the object itself), `type`, `length`, `keys`, `contains`, `absent`, `has`, `gives` (a
            function that was called), `environment`, or `parameter` (or a buffer, or an attribute read like one).
        value: what it was; for `absent` the name of the attribute, for `has` and `contains` a name and whether it was
            there, for `parameter` dtype, device, shape and whether it requires gradients, None if nobody asks.
    """

    place: Place
    kind: str
    value: Any

    @property
    def path(self) -> str:
        """Name of the module it was found in."""
        return self.place.path

    @property
    def tail(self) -> str:
        """The way from the module, or from what lies outside, to the value."""
        return self.place.tail

    def start(self, modules: Mapping[str, nn.Module]) -> Any:
        """What the way to the value begins at, given modules by name."""
        return modules[self.path] if self.place.outside is None else self.place.outside

    def named(self) -> str:
        """Its name for a reader: `blocks.0.drop.p`."""
        outside = self.place.outside
        return f"{self.path if outside is None else getattr(outside, '__name__', 'globals')}{self.tail}".lstrip(".")


def reads_of(
    model: nn.Module,
    guards: Iterable[guards.GuardRecord],
    *,
    gradients: bool,
    attributes: Collection[tuple[str, str]] = (),
) -> tuple[Read, ...]:
    """The reads behind Dynamo's guards.

    Args:
        model: what was traced, in the state it was traced in.
        guards: of the trace.
        gradients: whether the traced code asks what requires gradients.
        attributes: places of tensors that the graph reads when it runs, as it reads parameters.
    """
    found: dict[tuple[Any, ...], Read] = {}
    for guard in guards:
        place = place_of(model, guard)
        read = None if place is None else _read(model, place, guard, gradients, attributes)
        if read is not None:
            outside = read.place.outside
            start = read.path if outside is None else id(outside)
            attribute = read.value if read.kind in ("absent", "has", "contains") else None
            found.setdefault((start, read.tail, read.kind, attribute), read)
    return tuple(found.values())


def _read(
    model: nn.Module,
    place: Place,
    guard: guards.GuardRecord,
    gradients: bool,
    attributes: Collection[tuple[str, str]],
) -> Read | None:
    kind, tail = guard.kind, place.tail
    if tail.startswith(tuple(_HOOKS)) and kind != "EMPTY_NN_MODULE_HOOKS_DICT":
        return None  # hooks that were traced stay; later ones are looked at where the dict was empty
    if kind == "NOT_PRESENT_IN_GENERIC_DICT":
        return Read(place, "absent", guard.arguments["attr"])
    value = evaluate(tail)(submodule(model, place.path) if place.outside is None else place.outside)
    if kind == "HASATTR" and value is not MISSING:
        return Read(place, "has", (guard.arguments["attr"], hasattr(value, guard.arguments["attr"])))
    if value is MISSING or isinstance(value, (nn.Module, types.ModuleType)):
        return None  # modules are compared one by one
    if kind in _CONTAINS and hasattr(value, "__contains__"):
        return Read(place, "contains", (guard.arguments["key"], _CONTAINS[kind]))
    if kind == "TENSOR_MATCH":
        live = isinstance(value, nn.Parameter) or _BUFFER.search(place.tail) or (place.path, place.tail) in attributes
        return _read_of_tensor(place, value, gradients, live=bool(live))
    return _read_of_value(place, kind, value)


def _read_of_tensor(place: Place, value: torch.Tensor, gradients: bool, *, live: bool) -> Read:
    """Of one that the graph reads when it runs (`live`) all but the values; any other is a constant of the program."""
    if not live:
        return Read(place, "same", value)
    return Read(
        place, "parameter", (value.dtype, value.device, value.shape, value.requires_grad if gradients else None)
    )


def _read_of_value(place: Place, kind: str, value: Any) -> Read | None:
    if value is os.environ:  # where Dynamo guards no name that is missing
        return Read(place, "environment", dict(os.environ))
    if kind in _IDENTITY and value in _STATE:
        return Read(place, "gives", (value, value()))
    if kind in _CONSTANT | _IDENTITY and _is_simple(value):
        return Read(place, "equal", copy.deepcopy(value))
    if kind in _IDENTITY and not _is_pytorchs(value):
        return Read(place, "same", value)
    if kind == "EMPTY_NN_MODULE_HOOKS_DICT" or (kind in _LENGTH and hasattr(value, "__len__")):
        return Read(place, "length", len(value))
    if kind.startswith("DICT_KEYS") and isinstance(value, Mapping) and place.tail != "._modules":
        return Read(place, "keys", tuple(value))
    if kind == "TYPE_MATCH" and not place.tail.startswith("._"):
        return Read(place, "type", type(value))
    return None


def _is_pytorchs(value: Any) -> bool:
    return str(getattr(value, "__module__", "")).partition(".")[0] in ("torch", "builtins")


def _is_simple(value: Any) -> bool:
    if isinstance(value, (tuple, list, set, frozenset)):
        return all(map(_is_simple, value))
    return isinstance(value, _SIMPLE)


def _is_as_by_default(found: Any, name: str) -> bool:
    """Whether an attribute that was set on an object is what its class has: a flag that was switched on and off."""
    now, default = vars(found)[name], getattr(type(found), name, MISSING)
    return type(now) is type(default) and _is_simple(now) and bool(now == default)


def agrees(read: Read, found: Any) -> bool:
    """Whether what is found now, or `MISSING`, is what was read."""
    if read.kind == "absent":
        if found is MISSING or read.value not in getattr(found, "__dict__", ()):
            return True
        return _is_as_by_default(found, read.value) or (read.value == "forward" and computes_as_its_class(found))
    if found is MISSING:
        return False
    if read.kind == "has":
        return hasattr(found, read.value[0]) == read.value[1]
    if read.kind == "type":
        return type(found) is read.value
    if read.kind == "length":
        return hasattr(found, "__len__") and len(found) == read.value
    if read.kind == "keys":
        return isinstance(found, Mapping) and tuple(found) == read.value
    if read.kind == "contains":
        return hasattr(found, "__contains__") and (read.value[0] in found) == read.value[1]
    if read.kind == "gives":
        return found is read.value[0] and found() == read.value[1]
    if read.kind == "environment":
        return dict(found) == read.value
    if read.kind == "parameter":
        return isinstance(found, torch.Tensor) and found.device == read.value[1] and _requires(found, read.value[3])
    return found is read.value or (read.kind == "equal" and type(found) is type(read.value) and found == read.value)


def _requires(found: torch.Tensor, gradients: bool | None) -> bool:
    return gradients is None or found.requires_grad == gradients


@dataclass(frozen=True)
class Reads:
    """All that one trace has read.

    Attributes:
        values: what was read.
        classes: name of each module -> its class, without what this package derives from it.
        looked_up: class and name of a method or another attribute that was looked up in it -> what it was.
        called: names of the modules that the program calls.
        parallel: whether the model was distributed over processes; None before it is known.
    """

    values: tuple[Read, ...]
    classes: Mapping[str, type[nn.Module]]
    looked_up: Mapping[tuple[type[nn.Module], str], Any]
    called: frozenset[str] = frozenset()
    parallel: bool | None = None

    @classmethod
    def of(
        cls,
        model: nn.Module,
        guards: Iterable[guards.GuardRecord],
        path: str = "",
        *,
        gradients: bool = False,
        attributes: Collection[tuple[str, str]] = (),
    ) -> Reads:
        """What a trace of `model`, or of its module `path`, has read, by its guards; see `reads_of`."""
        modules: dict[str, nn.Module] = {n: m for n, m in named_modules(model) if lies_in(n, path)}
        names = {id(module): name for name, module in modules.items()}
        classes = {name: original_class(module) for name, module in modules.items()}
        found = reads_of(model, guards, gradients=gradients, attributes=attributes)
        named = [(names.get(id(submodule(model, read.path))), read) for read in found]
        inside = tuple(replace(read, place=replace(read.place, path=n)) for n, read in named if n is not None)
        return cls(inside, classes, _looked_up(inside, classes))

    def of_program(self, called: frozenset[str], whole: frozenset[str] = frozenset()) -> Reads:
        """The same for a program that calls these modules, so that their hooks run without being traced.

        Those called as a whole run their own code, so that nothing in them is taken for constant.
        """
        begun = next(iter(self.classes))  # is called already: by its hooks, and by a forward that was set around it
        values = tuple(
            r
            for r in self.values
            if not any(lies_in(r.path, path) for path in whole if r.place.outside is None)
            and not (r.tail in _HOOKS and (r.path in called or r.path == begun))
            and not (r.kind == "absent" and r.value == "forward" and r.path == begun)
        )
        return replace(self, values=values, called=called)

    def found_in(self, model: nn.Module) -> Reads:
        """The same for `model`, for which the trace was made just now, without what is another value there.

        The traced modules stand for those of `model` and have other classes, which a few of Dynamo's guards look at.
        A function around modules is another one there, as `rebind` has made them.
        """
        both = ((read, _found(read, model)) for read in self.values)
        known = (replace(r, value=v) if r.kind == "same" and isinstance(v, _REBOUND) else r for r, v in both)
        return replace(self, values=tuple(r for r in known if agrees(r, _found(r, model))))

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


def _looked_up(reads: Iterable[Read], classes: Mapping[str, type[nn.Module]]) -> dict[tuple[type[nn.Module], str], Any]:
    """Methods and properties: Dynamo notes only that an instance has none of its own, so it took that of the class."""
    asked = {(classes[r.path], r.value) for r in reads if r.kind == "absent" and r.place.outside is None and not r.tail}
    asked |= {(kind, "forward") for kind in classes.values()}
    found = {(kind, name): getattr(kind, name, MISSING) for kind, name in asked}
    return {at: v for at, v in found.items() if v is MISSING or callable(v) or isinstance(v, property)}


def _found(read: Read, model: nn.Module) -> Any:
    outside = read.place.outside
    return evaluate(read.tail)(submodule(model, read.path) if outside is None else outside)
