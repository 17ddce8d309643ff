"""Constants that a trace has read in attributes and dicts, compared at every call."""

from __future__ import annotations

from collections.abc import Mapping
from operator import getitem, is_
from typing import Any

from mhc_compile.capture.places import MISSING
from mhc_compile.capture.read import Read, agrees


class BoundAttributes:
    """Where each value is, and the object that was found there last.

    Nearly always it is the same object, which is told without Python code; only where it is another one is it looked
    at closely, once: to `==` alone, `True` is `1`, and NaN never what it was.
    """

    def __init__(self) -> None:
        """Of no values."""
        self._at: dict[tuple[int, str], int] = {}
        self._mappings: list[Mapping[str, Any]] = []
        self._keys: list[str] = []
        self._reads: list[Read] = []
        self._values: list[Any] = []

    @property
    def places(self) -> set[tuple[int, str]]:
        """Id of the dict and key of each value."""
        return set(self._at)

    def add(self, mapping: Mapping[str, Any], key: str, read: Read) -> None:
        """One more value, or what else is read of one that is known."""
        if (at := self._at.get((id(mapping), key))) is not None:
            self._reads[at], self._values[at] = read, read.value
            return
        self._at[id(mapping), key] = len(self._keys)
        self._mappings.append(mapping)
        self._keys.append(key)
        self._reads.append(read)
        self._values.append(read.value)

    def hold(self) -> bool:
        """Whether all are as they were read.

        Raises:
            KeyError: one is gone.
        """
        return all(map(is_, map(getitem, self._mappings, self._keys), self._values)) or self._agree()

    def _agree(self) -> bool:
        found = list(map(getitem, self._mappings, self._keys))
        if not all(map(agrees, self._reads, found)):
            return False
        self._values = found  # objects that cannot change: the next call tells at once
        return True

    def problem(self) -> str:
        """The first that is another one, "" if there is none."""
        for mapping, key, read in zip(self._mappings, self._keys, self._reads, strict=True):
            found = mapping.get(key, MISSING)
            if not agrees(read, found):
                return f"{read.named()} is {_text(found)}, no longer {_text(read.value)}"
        return ""


def is_fixed(value: Any) -> bool:
    """Whether the same object will have the same value: a list may not."""
    try:
        hash(value)
    except TypeError:
        return False
    return True


def _text(value: Any) -> str:
    text = "gone" if value is MISSING else repr(value)
    return text if len(text) <= 40 else f"a {type(value).__name__}"
