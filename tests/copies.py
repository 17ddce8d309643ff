"""Models that are made once and copied: to trace one takes a second, to copy what came of it milliseconds."""

from __future__ import annotations

import copy
from collections.abc import Callable
from functools import cache, wraps
from typing import ParamSpec, TypeVar

P = ParamSpec("P")
Made = TypeVar("Made")


def copied(make: Callable[P, Made]) -> Callable[P, Made]:
    """`make`, whose calls with equal arguments (hashable ones) give independent copies of one result."""
    original = cache(make)

    @wraps(make)
    def copy_of(*args: P.args, **kwargs: P.kwargs) -> Made:
        return copy.deepcopy(original(*args, **kwargs))

    return copy_of
