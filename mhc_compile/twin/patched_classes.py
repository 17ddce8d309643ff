"""What somebody sets on a class that was made on the fly, `type(module).forward = f`, is meant for the class it is of.

So the class that was meant gets it, where traces see it. Whoever puts back what was there puts back what was there.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

ORIGINAL = "_mhc_original"
"""Attribute of a class that was made on the fly: the class it stands for."""

MISSING = object()
Forward = Callable[..., Any]
MakeForward = Callable[[list[Forward]], Forward]
"""Makes a `forward` for a class. Once another was set on the class, its argument holds what the first stood for."""


class Patches:
    """Passes on what is set on one class that was made on the fly, once it is complete."""

    def __init__(self, original: Any, make_forward: MakeForward | None) -> None:
        """Know the class that is meant, and how to make a `forward` that runs what it has."""
        self._kind: Any = None
        self._original, self._make_forward = original, make_forward
        self._first: dict[str, Any] = {}
        self._stood_for: list[Forward] = []
        self._ours: list[tuple[Forward | None, list[Forward]]] = []

    def forward(self) -> dict[str, Forward]:
        """A new `forward` for the class, by its name, if it has one of its own."""
        if self._make_forward is None:
            return {}
        self._stood_for = []
        return {"forward": self._make_forward(self._stood_for)}

    def complete(self, kind: Any) -> Any:
        """From now on, pass on what is set on this class."""
        self._kind = kind
        self._ours.append((vars(kind).get("forward"), self._stood_for))  # may be wrapped by `__init_subclass__`
        return kind

    def methods(self) -> dict[str, Callable[..., None]]:
        """`__setattr__` and `__delattr__` of its metaclass."""

        def set_attribute(kind: Any, name: str, value: Any) -> None:
            if self._is_meant(kind, name):
                self._set(name, value)
            else:
                type.__setattr__(kind, name, value)

        def delete_attribute(kind: Any, name: str) -> None:
            if self._is_meant(kind, name):
                self._put(name, self._first.get(name, MISSING))
            else:
                type.__delattr__(kind, name)

        return {"__setattr__": set_attribute, "__delattr__": delete_attribute}

    def _is_meant(self, kind: Any, name: str) -> bool:
        """Not for what derives from the class, and not for what Python keeps there."""
        return kind is self._kind and not name.startswith(("__", "_abc_"))

    def _set(self, name: str, value: Any) -> None:
        self._first.setdefault(name, vars(self._original).get(name, MISSING))
        if name == "forward" and self._make_forward is not None:
            inner = next((stood_for for forward, stood_for in self._ours if forward is value), None)
            if inner is not None:  # it is put back
                value = inner[0] if inner else self._original.forward
            self._stood_for.append(self._original.forward)
            type.__setattr__(self._kind, name, self.forward()[name])
            self.complete(self._kind)
        self._put(name, value)

    def _put(self, name: str, value: Any) -> None:
        if name in vars(self._original):
            delattr(self._original, name)
        if value is not MISSING and getattr(self._original, name, MISSING) is not value:
            setattr(self._original, name, value)
