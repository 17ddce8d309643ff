"""Constructor options from the command line: `hidden_size=8192`, `text_config.num_hidden_layers=2`."""

from __future__ import annotations

import ast
from collections.abc import Mapping, Sequence
from typing import Any

from mhc_compile.errors import InvalidOptionError

_WORDS = {"true": True, "false": False, "none": None, "null": None}
_EXAMPLE = "write for example hidden_size=512, use_cache=false or text_config.num_hidden_layers=2"


def parse_options(items: Sequence[str]) -> dict[str, object]:
    """Read `key=value` items; a value is an int, a float, a bool, None, a Python list, or else a string.

    Raises:
        InvalidOptionError: an item has no `=`, or its key is no dotted name.
    """
    options: dict[str, object] = {}
    for item in items:
        key, equals, value = item.partition("=")
        key = key.strip()
        if not equals or not all(part.isidentifier() for part in key.split(".")):
            raise InvalidOptionError(f"the option {item!r} is not of the form key=value: {_EXAMPLE}")
        options[key] = parse_value(value.strip())
    return options


def parse_value(text: str) -> object:
    """`text` as a Python literal, a word such as `true`, or itself."""
    if text.lower() in _WORDS:
        return _WORDS[text.lower()]
    try:
        return ast.literal_eval(text)
    except (ValueError, SyntaxError):
        return text


def nest(options: Mapping[str, object]) -> dict[str, Any]:
    """`{"a.b": 1, "c": 2}` as `{"a": {"b": 1}, "c": 2}`.

    Raises:
        InvalidOptionError: one key is both a value and the start of another key.
    """
    nested: dict[str, Any] = {}
    for key, value in options.items():
        *parents, leaf = key.split(".")
        place = nested
        for parent in parents:
            place = place.setdefault(parent, {})
            if not isinstance(place, dict):
                raise InvalidOptionError(f"the option {key!r} goes into {parent!r}, which is also set to {place!r}")
        if isinstance(place.get(leaf), dict):
            raise InvalidOptionError(f"the option {key!r} is set to {value!r}, but options below it are set as well")
        place[leaf] = value
    return nested
