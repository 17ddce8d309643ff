"""One value that a trace has read and taken for constant, and whether it is still the same."""

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
from mhc_compile.twin.hosts import MethodDoor
from mhc_compile.twin.module_tree import HOOKS
from mhc_compile.twin.offload import computes_as_its_class

HOOK_PLACES = frozenset(f".{name}" for name in (*HOOKS, "_backward_hooks", "_backward_pre_hooks"))
_SIMPLE = (type(None), bool, int, float, complex, str, bytes, torch.dtype, torch.device, torch.Size, Enum)
_CONSTANT = frozenset(
    {"CONSTANT_MATCH", "CONSTANT_SUBCLASS_MATCH", "EQUALS_MATCH", "BOOL_MATCH", "NONE_MATCH", "TORCH_DTYPE_MATCH"}
)
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
        kind: `equal`, `same` (the object itself), `type`, `length` (and class), `keys`, `contains`, `absent`, `has`,
            `gives` (a function that was called), `environment`, `parameter` (or a buffer, or an attribute read like
            one), or `tied` (the same tensor as at another place).
        value: what it was; for `absent` the name of the attribute, for `has` and `contains` a name and whether it was
            there, for `parameter` dtype, device, shape and whether it requires gradients, None if nobody asks; for
            `tied` the other place.
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
    if tail.startswith(tuple(HOOK_PLACES)) and kind != "EMPTY_NN_MODULE_HOOKS_DICT":
        return None  # hooks that were traced stay; later ones are looked at where the dict was empty
    if kind == "NOT_PRESENT_IN_GENERIC_DICT":
        return Read(place, "absent", guard.arguments["attr"])
    value = evaluate(tail)(submodule(model, place.path) if place.outside is None else place.outside)
    if kind == "HASATTR" and value is not MISSING:
        return Read(place, "has", (guard.arguments["attr"], hasattr(value, guard.arguments["attr"])))
    if kind == "DUPLICATE_INPUT":
        return _read_of_tie(model, place, guard, value)
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


def _read_of_tie(model: nn.Module, place: Place, guard: guards.GuardRecord, value: Any) -> Read | None:
    """Of a tensor that has two names, of which the graph reads the other one."""
    other = place_of(model, replace(guard, name=guard.arguments["other"]))
    inside = other is not None and other.outside is None and place.outside is None
    return Read(place, "tied", other) if inside and isinstance(value, torch.Tensor) else None


def _read_of_value(place: Place, kind: str, value: Any) -> Read | None:
    if value is os.environ:  # where Dynamo guards no name that is missing
        return Read(place, "environment", dict(os.environ))
    if kind in _IDENTITY and any(value is function for function in _STATE):
        return Read(place, "gives", (value, value()))
    if kind in _CONSTANT | _IDENTITY and _is_simple(value):
        return Read(place, "equal", copy.deepcopy(value))
    if kind in _IDENTITY and not _is_pytorchs(value):
        return Read(place, "same", value)
    if kind == "EMPTY_NN_MODULE_HOOKS_DICT":
        return Read(place, "length", (None, len(value)))
    if kind in _LENGTH and hasattr(value, "__len__"):
        return Read(place, "length", (type(value), len(value)))
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
    return _is_simple(now) and alike(now, default)


def alike(found: Any, known: Any) -> bool:
    """Whether no code can tell two values apart, as it can `True` from `1` and `0.0` from `-0.0`, which are equal."""
    if found is known:
        return True
    if type(found) is not type(known):
        return False
    if isinstance(known, (tuple, list)):
        return len(found) == len(known) and all(map(alike, found, known))
    if isinstance(known, (set, frozenset)):
        return {(type(value), value) for value in found} == {(type(value), value) for value in known}
    if isinstance(known, (float, complex)):
        return repr(found) == repr(known)  # NaN is another value than itself to `==`
    return bool(found == known)


def agrees(read: Read, found: Any) -> bool:
    """Whether what is found now, or `MISSING`, is what was read."""
    if read.kind == "absent":
        if found is MISSING or read.value not in getattr(found, "__dict__", ()):
            return True
        if isinstance(vars(found)[read.value], MethodDoor):
            return True
        return _is_as_by_default(found, read.value) or (read.value == "forward" and computes_as_its_class(found))
    if found is MISSING:
        return False
    if read.kind == "has":
        return hasattr(found, read.value[0]) == read.value[1]
    if read.kind == "type":
        return type(found) is read.value
    if read.kind == "length":
        kind, length = read.value
        return hasattr(found, "__len__") and len(found) == length and kind in (None, type(found))
    if read.kind == "keys":
        return isinstance(found, Mapping) and alike(tuple(found), read.value)
    if read.kind == "contains":
        return hasattr(found, "__contains__") and (read.value[0] in found) == read.value[1]
    if read.kind == "gives":
        return found is read.value[0] and found() == read.value[1]
    if read.kind == "environment":
        return dict(found) == read.value
    if read.kind == "tied":
        return isinstance(found, torch.Tensor)  # which one is told where both places are known
    if read.kind == "parameter":
        return isinstance(found, torch.Tensor) and found.device == read.value[1] and _requires(found, read.value[3])
    return found is read.value or (read.kind == "equal" and alike(found, read.value))


def _requires(found: torch.Tensor, gradients: bool | None) -> bool:
    return gradients is None or found.requires_grad == gradients
