"""Where the values of a model are kept: the dict and the name there, to look them up without running Python code."""

from __future__ import annotations

import re
import types
from collections.abc import Mapping
from typing import Any

from mhc_compile.capture.attributes import ATTRIBUTE

_STEP = re.compile(r"\.(\w+)|\['([^']+)'\]")
_REGISTERED = re.compile(r"^\.(_parameters|_buffers)\['([^']+)'\]$")


def holder_of_tensor(start: Any, tail: str) -> tuple[dict[str, Any], str] | None:
    """The dict that holds a parameter, buffer or attribute of a module, and its name there."""
    named, attribute = _REGISTERED.match(tail), ATTRIBUTE.match(tail)
    if named:
        return getattr(start, named[1]), named[2]
    return (vars(start), attribute[1]) if attribute else None


def steps_to(start: Any, tail: str) -> list[tuple[Mapping[str, Any], str]] | None:
    """The way from `start` to a value as lookups in dicts; None where there is another step in it."""
    steps: list[tuple[Mapping[str, Any], str]] = []
    rest, value = tail, start
    while rest:
        step = _STEP.match(rest)
        if step is None:
            return None
        mapping, key = (value, step[2]) if step[2] else (getattr(value, "__dict__", None), step[1])
        if not isinstance(mapping, (dict, types.MappingProxyType)) or key not in mapping:
            return None
        if isinstance(mapping[key], (staticmethod, classmethod, property)):
            return None  # what is read of a class is what is behind it
        steps.append((mapping, key))
        rest, value = rest[step.end() :], mapping[key]
    return steps
