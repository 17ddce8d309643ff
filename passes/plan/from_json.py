"""Plans from their JSON form; the other way is `Plan.to_dict`."""

from __future__ import annotations

import types
import typing
from collections.abc import Mapping
from dataclasses import MISSING, fields, is_dataclass
from enum import Enum
from typing import Any

from mhc_compile.passes.plan.data import Plan


def plan_from_dict(data: Mapping[str, Any]) -> Plan:
    """The plan that `to_dict` was called on. What it does not know is ignored, as the schema wants.

    Fields that are younger than the text have their defaults.

    Raises:
        KeyError, TypeError, ValueError: it is no plan.
    """
    plan: Plan = _decode(Plan, data)
    named = {key for segment in plan.segments for key in segment.sites}
    named |= {key for step in plan.steps for key in (step.writes, step.gates) if key}
    if missing := sorted(named - {site.key for site in plan.sites}):
        raise ValueError(f"the site {missing[0]!r} is named and not described")
    return plan


def _decode(kind: Any, value: Any) -> Any:
    """A value of the annotated type `kind` from what JSON has in its place."""
    origin, arguments = typing.get_origin(kind), typing.get_args(kind)
    if origin in (typing.Union, types.UnionType):
        return _decode_union(arguments, value)
    if origin in (tuple, frozenset):
        return _decode_items(origin, arguments, value)
    if is_dataclass(kind):
        known = typing.get_type_hints(kind)
        missing = {f.name for f in fields(kind) if f.name not in value and f.default is not MISSING}
        given = (f.name for f in fields(kind) if f.name not in missing)
        return kind(**{name: _decode(known[name], value[name]) for name in given})  # type: ignore[operator]
    if isinstance(kind, type) and issubclass(kind, Enum):
        return kind[value]
    if not isinstance(value, kind):
        raise TypeError(f"{value!r} is no {kind.__name__}")
    return value


def _decode_items(kind: Any, arguments: tuple[Any, ...], value: Any) -> Any:
    if not isinstance(value, (list, tuple)):
        raise TypeError(f"{value!r} is no list")
    if kind is frozenset or arguments[-1] is ...:
        return kind(_decode(arguments[0], item) for item in value)
    return tuple(_decode(each, item) for each, item in zip(arguments, value, strict=True))


def _decode_union(kinds: tuple[Any, ...], value: Any) -> Any:
    """`Enum | None`, written as "" for None, or plain types."""
    if type(None) in kinds:
        (kind,) = (each for each in kinds if each is not type(None))
        return _decode(kind, value) if value else None
    if not isinstance(value, kinds):
        raise TypeError(f"{value!r} is none of {', '.join(kind.__name__ for kind in kinds)}")
    return value
