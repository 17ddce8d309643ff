"""What modules keep of each other beside their children: in a second tree it is about the modules of that tree.

A list of layers, a parent that a child knows, a method of another module, a function around one, a hook: left as they
are they would lead back to the first tree, whose attributes, hooks and replaced children are others from then on.
"""

from __future__ import annotations

import functools
import types
import weakref
from collections import OrderedDict
from collections.abc import Callable, Mapping
from dataclasses import is_dataclass
from typing import Any

from torch import nn

from mhc_compile.twin.patched_classes import ORIGINAL

_REGISTRIES = frozenset({"_parameters", "_buffers", "_modules"})
_DEPTH = 4  # of lists in lists

Twins = Mapping[int, nn.Module]


def rebind(state: dict[str, Any], twins: Twins) -> None:
    """Let the attributes of a module, its hooks among them, speak of the second modules.

    Args:
        state: `vars` of a module of the second tree; changed in place.
        twins: id of a module of the first tree -> its second.
    """
    for name, value in state.items():
        if name not in _REGISTRIES:
            state[name] = rebound(value, twins)


def rebound(value: Any, twins: Twins, depth: int = _DEPTH) -> Any:
    """The same about the second modules; the value itself where it holds none of the first."""
    if isinstance(value, nn.Module):
        return twins.get(id(value), value)
    make = _MAKERS.get(type(value))
    if make is not None and depth:
        return make(value, lambda part: rebound(part, twins, depth - 1))
    if is_dataclass(type(value)) and hasattr(value, "traced"):  # a `TracedHook`
        return type(value)(rebound(value.traced, twins, depth), value.with_kwargs)
    return value


Change = Callable[[Any], Any]


def _of_list(value: Any, change: Change) -> Any:
    made = [change(part) for part in value]
    return type(value)(made) if any(a is not b for a, b in zip(made, value, strict=True)) else value


def _of_dict(value: dict[Any, Any], change: Change) -> dict[Any, Any]:
    made = type(value)((key, change(part)) for key, part in value.items())
    return made if any(made[key] is not part for key, part in value.items()) else value


def _of_reference(value: Any, change: Change) -> Any:
    target = value()
    made = change(target) if isinstance(target, nn.Module) else target
    return value if made is target else weakref.ref(made)


def _of_method(value: types.MethodType, change: Change) -> types.MethodType:
    known = value.__self__
    owner = change(known) if isinstance(known, nn.Module) else known
    if owner is known:
        return value
    stands_for: Any = vars(type(known)).get(ORIGINAL)  # its `forward` asks for what modules of a plain tree do not have
    ours = stands_for is not None and vars(type(known)).get("forward") is value.__func__
    return types.MethodType(stands_for.forward if ours else value.__func__, owner)


def _of_partial(value: functools.partial[Any], change: Change) -> functools.partial[Any]:
    function, args = change(value.func), _of_list(value.args, change)
    keywords = _of_dict(value.keywords, change)
    if function is value.func and args is value.args and keywords is value.keywords:
        return value
    return functools.partial(function, *args, **keywords)


def _of_function(value: types.FunctionType, change: Change) -> types.FunctionType:
    """Its variables of the functions around that hold modules are its own from then on."""
    cells = value.__closure__ or ()
    made = tuple(_of_cell(cell, change) for cell in cells)
    if all(a is b for a, b in zip(made, cells, strict=True)):
        return value
    function = types.FunctionType(value.__code__, value.__globals__, value.__name__, value.__defaults__, made)
    function.__kwdefaults__ = value.__kwdefaults__
    vars(function).update(vars(value))
    return function


def _of_cell(cell: types.CellType, change: Change) -> types.CellType:
    try:
        known = cell.cell_contents
    except ValueError:  # it is empty
        return cell
    if not isinstance(known, (nn.Module, types.MethodType)):
        return cell
    made = change(known)
    return cell if made is known else types.CellType(made)


_MAKERS: dict[type, Callable[[Any, Change], Any]] = {
    list: _of_list,
    tuple: _of_list,
    dict: _of_dict,
    OrderedDict: _of_dict,
    weakref.ref: _of_reference,
    types.MethodType: _of_method,
    types.FunctionType: _of_function,
    functools.partial: _of_partial,
}
