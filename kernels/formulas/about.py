"""What a user is told about a connection, and how a connection with options is spelled."""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import dataclass

from mhc_compile.errors import InvalidOptionError

Options = Mapping[str, float]
EXACTLY = "yes"
NEVER = "no, to train from scratch"


@dataclass(frozen=True)
class About:
    """One row of the table of connections.

    Attributes:
        mixing: R, in a few words.
        gates: pre and post.
        source: whose paper or release.
        ships: models that ship with it, "" where none is known.
        keeps: whether `init="preserve"` keeps the function of the model: `EXACTLY`, `NEVER`, or under
            which condition.
        forward: elements that an interior site moves per token and channel: `(a, b)` stands for `a n + b`. Fused steps
            read X and y and write X' and u; others read the streams for coefficients, read and write each.
        backward: the same of the backward.
    """

    mixing: str
    gates: str = "sigmoid, 2 sigmoid"
    source: str = ""
    ships: str = ""
    keeps: str = EXACTLY
    forward: tuple[int, int] = (2, 2)
    backward: tuple[int, int] = (3, 3)


def parse(text: str, known: Mapping[str, Options]) -> tuple[str, dict[str, float]]:
    """The name and the options of a connection as a user writes it: `identity`, `identity:magnitude=1.5,eps=1e-6`.

    Args:
        text: what was written.
        known: names, with the options of each and their defaults, whose types are those of the values.

    Returns:
        The name, and every option of that name.

    Raises:
        InvalidOptionError: the name, an option or a value is not known.
    """
    name, colon, rest = text.partition(":")
    if name not in known:
        raise InvalidOptionError(f"connection={text!r} is not known: write one of {', '.join(map(repr, known))}")
    options = dict(known[name])
    given: dict[str, float] = {}  # Dynamo traces this, and knows no `dict[str, float]()`
    for item in rest.split(",") if colon else ():
        key, _, value = item.partition("=")
        if key in given:
            raise InvalidOptionError(f"connection={text!r} says {key} twice: write it once")
        given[key] = options[key] = _value(text, key, value, known[name])
    return name, options


def spell(name: str, options: Options, defaults: Options) -> str:
    """The one way of writing a connection: options that have their default are left out."""
    given = [f"{key}={options[key]!r}" for key in defaults if options[key] != defaults[key]]
    return f"{name}:{','.join(given)}" if given else name


def _value(text: str, key: str, value: str, defaults: Options) -> float:
    if key not in defaults:
        there = f"its options are {', '.join(defaults)}" if defaults else "it takes no options"
        raise InvalidOptionError(f"connection={text!r}: {key!r} is no option of it, {there}")
    try:
        found = type(defaults[key])(value)
        if not math.isfinite(found):
            raise ValueError(value)
        return found
    except ValueError as error:
        kind = "a whole number" if isinstance(defaults[key], int) else "a number"
        example = f"{key}={defaults[key]!r}"
        raise InvalidOptionError(f"connection={text!r}: {key} is {value!r}: write {kind}, as in {example}") from error
