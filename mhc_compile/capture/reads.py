"""What a trace has read and taken for constant: attributes, flags, classes, hooks, dtypes of parameters, globals.

Dynamo lists it as the guards of the trace. They are looked up on the live modules, and where they lie outside of the
model, at every call, so that a program is never used once something that it has read is another value.
"""

from __future__ import annotations

import types
from collections.abc import Callable, Collection, Iterable, Mapping
from dataclasses import dataclass, replace
from typing import Any

from torch import nn

from mhc_compile.capture import guards
from mhc_compile.capture.places import MISSING, evaluate, submodule
from mhc_compile.capture.read import HOOK_PLACES, Read, agrees, reads_of
from mhc_compile.twin.hosts import Hosted
from mhc_compile.twin.module_tree import original_class
from mhc_compile.twin.names import lies_in, named_modules

_REBOUND = (types.FunctionType, types.MethodType)


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
        named = [_named(read, lambda path: names.get(id(submodule(model, path)))) for read in found]
        inside = tuple(read for read in named if read is not None)
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
            and not (r.tail in HOOK_PLACES and (r.path in called or r.path == begun))
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


def _named(read: Read, name: Callable[[str], str | None]) -> Read | None:
    """The same with the names that modules have in the whole; None if one has none."""
    path, other = name(read.path), name(read.value.path) if read.kind == "tied" else ""
    if path is None or other is None:
        return None
    value = replace(read.value, path=other) if read.kind == "tied" else read.value
    return replace(read, place=replace(read.place, path=path), value=value)


def _looked_up(reads: Iterable[Read], classes: Mapping[str, type[nn.Module]]) -> dict[tuple[type[nn.Module], str], Any]:
    """Methods and properties: Dynamo notes only that an instance has none of its own, so it took that of the class."""
    asked = {(classes[r.path], r.value) for r in reads if r.kind == "absent" and r.place.outside is None and not r.tail}
    asked |= {(kind, "forward") for kind in classes.values()}
    found = {(kind, name): getattr(kind, name, MISSING) for kind, name in asked}
    return {at: v for at, v in found.items() if v is MISSING or callable(v) or isinstance(v, property)}


def _found(read: Read, model: nn.Module) -> Any:
    outside = read.place.outside
    return evaluate(read.tail)(submodule(model, read.path) if outside is None else outside)
