"""Where the guards of a trace point: at a module of the model and on from there, or at a class or globals outside."""

from __future__ import annotations

import re
import types
from collections.abc import Callable, Collection, Iterable
from dataclasses import dataclass
from typing import Any

import torch
from torch import nn

from mhc_compile import _torch_compat as compat
from mhc_compile.capture import guards

MISSING = object()
"""What `evaluate` gives where there is no such value (any more)."""

_IN_MODEL = re.compile(r"^root((?:\._modules\['[^']+'\])*)(.*)$")
_IN_CLASS = re.compile(r"^type\(root((?:\._modules\['[^']+'\])*)\)(.+)$")
_IN_GLOBALS = re.compile(r"^scope\['([^']+)'\](.+)$")
_IN_DICT = re.compile(r"\.__dict__\['(\w+)'\]")
_ITEM = re.compile(r"\['([^']+)'\]")
_COPIED = re.compile(r"dict\(((?:[^()]|\([^()]*\))*\.__dict__)\)")
_FUNCTION_GLOBALS = "___unnamed_scope"


@dataclass(frozen=True)
class Place:
    """Where a value is.

    Attributes:
        path: name of the module, "" for the model itself; for a class that of a module that has it.
        tail: the way from there as an expression, such as `.p` or `.config.hidden_act`.
        outside: what the way begins at where that is no module: a class, a Python module, globals. Else None.
    """

    path: str
    tail: str
    outside: Any = None


def place_of(model: nn.Module, guard: guards.GuardRecord) -> Place | None:
    """Where the value of a guard is; None for what PyTorch and Dynamo have for themselves."""
    name = _COPIED.sub(r"\1", guard.name)  # Dynamo looks at a copy of a class, which does not change
    name = _IN_DICT.sub(r".\1", name)  # so it goes on where a module has a `__getattr__` of its own
    if matched := _IN_MODEL.match(name):
        return Place(_path(matched[1]), _tail(matched))
    if matched := _IN_CLASS.match(name):
        module = submodule(model, _path(matched[1]))
        return None if module is None else Place(_path(matched[1]), _tail(matched), type(module))
    matched = _IN_GLOBALS.match(name)
    holder = guard.scope.get(matched[1]) if matched else None
    if matched is None or not _is_users(matched[1], holder):
        return None
    return Place("", _tail(matched), holder)


def _tail(matched: re.Match[str]) -> str:
    """The way on from where a name begins, which it may name again: `x[list(dict.keys(x))[0]]` for a key by place."""
    return matched[2].replace(matched.string[: matched.start(2)], "root")


def _is_users(name: str, holder: Any) -> bool:
    if isinstance(holder, types.ModuleType):
        return holder.__name__.partition(".")[0] not in ("torch", "builtins")
    return isinstance(holder, dict) and name.startswith(_FUNCTION_GLOBALS)


def _path(chain: str) -> str:
    return ".".join(_ITEM.findall(chain))


def submodule(root: nn.Module, path: str) -> nn.Module | None:
    """A submodule, looking through wrappers for activation checkpointing; None if there is none."""
    module: nn.Module | None = root
    for part in path.split(".") if path else ():
        module = None if module is None else compat.unwrapped(module)._modules.get(part)
    return None if module is None else compat.unwrapped(module)


def evaluate(tail: str) -> Callable[[Any], Any]:
    """`lambda root: root<tail>`, or `MISSING`."""
    names = {"torch": torch}  # of keys such as `torch.float64`
    get = eval(f"lambda root: root{tail}", names) if tail else lambda root: root  # Dynamo evaluates it too

    def value(root: Any) -> Any:
        try:
            return get(root)
        except (AttributeError, KeyError, IndexError, TypeError, ValueError):  # the last for an empty cell
            return MISSING

    return value


def reaches(guards: Iterable[guards.GuardRecord], functions: Collection[Callable[..., Any]]) -> bool:
    """Whether the traced code has looked up one of these functions of PyTorch's by its name in a module."""
    names = tuple(f".{function.__name__}" for function in functions)
    return any(_outside(guard) in functions for guard in guards if guard.name.endswith(names))


def _outside(guard: guards.GuardRecord) -> Any:
    if guard.name.startswith("scope"):
        return evaluate(guard.name.removeprefix("scope"))(guard.scope)
    return eval(guard.name, {}) if guard.name.startswith("__import__(") else None  # written by Dynamo
