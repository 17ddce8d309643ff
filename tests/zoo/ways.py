"""Which way calls of a transformed model go: through its programs, or through Dynamo."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from typing import Any
from unittest import mock

from mhc_compile.model.fallback import Fallback
from mhc_compile.programs.program import Program
from tests.zoo.result import CheckError

ONE_GRAPH, DYNAMO = "one graph", "Dynamo"


@contextmanager
def counted() -> Iterator[dict[str, int]]:
    """How many calls in the block were served by programs, and how many by Dynamo."""
    counts = {ONE_GRAPH: 0, DYNAMO: 0}

    def counting(way: str, function: Callable[..., Any]) -> Callable[..., Any]:
        def call(*args: Any) -> Any:
            counts[way] += 1
            return function(*args)

        return call

    with (
        mock.patch.object(Program, "__call__", counting(ONE_GRAPH, Program.__call__)),
        mock.patch.object(Fallback, "__call__", counting(DYNAMO, Fallback.__call__)),
    ):
        yield counts


def ways_of(counts: Mapping[str, int]) -> str:
    """Who has served the calls that were `counted`.

    Raises:
        CheckError: nobody has, so that the model ran plain.
    """
    ways = [way for way, count in counts.items() if count]
    if not ways:
        raise CheckError("neither a program nor Dynamo was asked")
    return " + ".join(ways)
