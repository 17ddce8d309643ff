"""Methods beside `forward` that add up residual connections themselves: called by anyone else, they are doors too."""

from __future__ import annotations

import dataclasses
import dis
import functools
import inspect
import types
import weakref
from collections.abc import Iterator, Sequence
from itertools import pairwise
from typing import Any, cast

import torch
from torch import nn

from mhc_compile._torch_compat import tree_flatten
from mhc_compile.model.serve import call_entry
from mhc_compile.passes.plan.data import Site
from mhc_compile.programs.ownership import Served
from mhc_compile.twin.hosts import MethodDoor, runs_plain
from mhc_compile.twin.module_tree import original_class
from mhc_compile.twin.names import lies_in, named_modules

_FORWARD = ("forward", "__call__")


class OwnedMethod(MethodDoor):
    """One method of one module of a transformed model, in the place of that of its class."""

    def __init__(self, owner: Served, path: str, module: nn.Module, name: str, *, sums: bool) -> None:
        """Know the owner and the module weakly: they hold this.

        `sums` says that the method is known to add up; another one only may, if it is given a tensor.
        """
        self._owner, self._module = weakref.ref(owner), weakref.ref(module)
        self._path, self._name, self._sums = path, name, sums
        self.__signature__ = inspect.signature(types.MethodType(getattr(original_class(module), name), module))
        self.__doc__ = getattr(original_class(module), name).__doc__

    def __call__(self, *args: Any, **kwargs: Any) -> Any:
        """The method, with the hyper-connections inside."""
        owner, module = self._owner(), self._module()
        if owner is None or module is None or runs_plain() or not (self._sums or _has_tensor((args, kwargs))):
            return getattr(original_class(module), self._name)(module, *args, **kwargs)  # type: ignore[arg-type]
        return call_entry(owner, owner._mhc.entry(self._path, self._name), args, kwargs)


def set_method_doors(owner: Served) -> None:
    """Put doors in the places of methods of `owner` and its modules: of those that add up a site of the plan.

    Of those that the example call did not run, but that name the branches of a site of their module: they may add them
    up, too. And of those that call the forward of a class past the module, as `super().forward(x)` does, if it has
    sites inside.
    """
    modules = dict(named_modules(owner))
    sites = [site for plan in owner._mhc.plans for site in plan.sites]
    around = {path for place in {site.module for site in sites} for path in _up_from(place)} & modules.keys()
    past = {(path, name) for path in around for name in _past_the_module(cast(Any, original_class(modules[path])))}
    summing = past.union(*(_method_of(site, modules) for site in sites))
    for path, name in summing.union(_naming(sites, modules)):
        module = modules[path]
        if name not in vars(module) or isinstance(vars(module)[name], MethodDoor):
            vars(module)[name] = OwnedMethod(owner, path, module, name, sums=(path, name) in summing)


def _method_of(site: Site, modules: dict[str, nn.Module]) -> Iterator[tuple[str, str]]:
    """The module and its method in which the sum stands: of the modules around its weights, the innermost with it."""
    around = [path for path in modules if site.weights and lies_in(site.weights[0], path)]
    for path in sorted(around, key=len, reverse=True):
        names = _functions_at(cast(Any, original_class(modules[path])), site.location)
        if names:
            yield from ((path, name) for name in names if name not in _FORWARD)
            return


def _functions_at(kind: Any, location: str) -> list[str]:
    """The names under which a class has the method in which a line stands, given as `file:line`."""
    file, _, line = location.rpartition(":")
    return [name for name, code in _functions(kind).get(file, ()) if int(line) in _lines(code)]


def _naming(sites: Sequence[Site], modules: dict[str, nn.Module]) -> Iterator[tuple[str, str]]:
    """Methods of modules that hold sums, if they name the attribute under which a branch of one lies."""
    for path, key in {(site.module, _first_below(site.module, weight)) for site in sites for weight in site.weights}:
        if path in modules and key:
            kind = cast(Any, original_class(modules[path]))
            yield from ((path, name) for name, code in _own_methods(kind) if key in _names_in(code))


def _first_below(place: str, weight: str) -> str:
    """`blocks` for a weight `net.blocks.0.weight` below `net`; "" for one elsewhere, or of the module itself."""
    below = weight[len(place) + 1 :] if place and lies_in(weight, place) else weight
    first, _, rest = below.partition(".")
    return first if rest and lies_in(weight, place) else ""


@functools.cache
def _own_methods(kind: Any) -> list[tuple[str, types.CodeType]]:
    """Functions of a class that take more than the module, decorated or not, and are neither `forward` nor Python's."""
    bases = kind.__mro__[: kind.__mro__.index(nn.Module)]
    found = {name: value for base in reversed(bases) for name, value in vars(base).items()}
    codes = [(name, _code_of(value)) for name, value in found.items() if isinstance(value, types.FunctionType)]
    return [
        (name, code)
        for name, code in codes
        if code is not None and _takes_more(code) and name not in _FORWARD
        if not (name.startswith("__") and name.endswith("__"))
    ]


def _takes_more(code: types.CodeType) -> bool:
    """Whether a method may be given anything but its module, and computes when it is called, not when it is awaited."""
    if code.co_flags & (inspect.CO_COROUTINE | inspect.CO_ASYNC_GENERATOR):
        return False
    any_number = code.co_flags & (inspect.CO_VARARGS | inspect.CO_VARKEYWORDS)
    return code.co_argcount + code.co_kwonlyargcount > 1 or bool(any_number)


def _names_in(code: types.CodeType) -> set[str]:
    """What a function and those inside of it name."""
    inner = (_names_in(part) for part in code.co_consts if isinstance(part, types.CodeType))
    return {*code.co_names}.union(*inner)


def _has_tensor(call: Any) -> bool:
    """Whether there is a tensor among the inputs of a call, or in a field of a dataclass there."""
    leaves = tree_flatten(call)[0]
    held = [leaf for leaf in leaves if dataclasses.is_dataclass(leaf)]
    fields = [getattr(leaf, field.name, None) for leaf in held for field in dataclasses.fields(leaf)]
    return any(isinstance(value, torch.Tensor) for value in (*leaves, *fields))


def _up_from(path: str) -> Iterator[str]:
    """A module's name, and those of the modules around it."""
    yield path
    while path:
        path = path.rpartition(".")[0]
        yield path


@functools.cache
def _past_the_module(kind: Any) -> list[str]:
    """Methods beside `forward` that look `forward` up in a class: by `super`, or by the name of a base."""
    bases = kind.__mro__[: kind.__mro__.index(nn.Module)]
    methods = ((name, value) for base in bases for name, value in vars(base).items() if name not in _FORWARD)
    codes = ((name, _code_of(value)) for name, value in methods if isinstance(value, types.FunctionType))
    return [name for name, code in codes if code is not None and _of_a_class(code, kind)]


def _of_a_class(function: types.CodeType, kind: Any) -> bool:
    """Whether a function names the `forward` of a class, as `super().forward` does and `self.forward` does not."""
    if "forward" not in function.co_names:
        return False
    code = [i for i in dis.get_instructions(function) if i.opname not in ("CACHE", "PRECALL", "PUSH_NULL")]
    loads = [(before, i) for before, i in pairwise(code) if i.opname.startswith("LOAD") and i.argval == "forward"]
    bases = {base.__name__ for base in kind.__mro__}
    return any(
        before.opname == "CALL" or i.opname.startswith("LOAD_SUPER") or before.argval in bases for before, i in loads
    )


@functools.cache
def _functions(kind: Any) -> dict[str, list[tuple[str, types.CodeType]]]:
    """File -> the methods of a class that stand there, those of its own class first."""
    found: dict[str, list[tuple[str, types.CodeType]]] = {}
    for name, value in (item for base in kind.__mro__ for item in vars(base).items()):
        code = None if isinstance(value, (staticmethod, classmethod)) else _code_of(value)
        if code is not None:
            found.setdefault(code.co_filename, []).append((name, code))
    return found


def _code_of(value: Any) -> types.CodeType | None:
    """The code of a function, also behind decorators."""
    code = getattr(inspect.unwrap(value), "__code__", None) if callable(value) else None
    return code if isinstance(code, types.CodeType) else None


def _lines(code: types.CodeType) -> set[int]:
    """The lines of a function, and of functions inside of it."""
    inner = (_lines(part) for part in code.co_consts if isinstance(part, types.CodeType))
    return {line for *_, line in code.co_lines() if line is not None}.union(*inner)
