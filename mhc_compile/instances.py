"""One compiled graph serves every module of a class: which new parameters it takes depends on whom it is called for.

Dynamo makes the parameters of modules inputs of its graphs. Behind a graph break in a loop over blocks, and for blocks
that are compiled one by one, it compiles the first block and calls the result with the parameters of all others.
"""

from __future__ import annotations

import weakref
from collections.abc import Callable, Sequence
from functools import partial
from operator import itemgetter
from typing import Any

from mhc_compile.store import Slots

Served = tuple[Callable[..., Any], Slots]
"""The code that runs for certain modules, and where the parameters are that it takes behind the inputs."""


class Instances:
    """What a compiled graph does, by the identity of the weights that it is called with."""

    def __init__(self, positions: Sequence[int], learn: Callable[[Sequence[Any]], Served]) -> None:
        """Know nobody yet.

        Args:
            positions: which inputs tell the modules apart.
            learn: finds out, or creates, what is needed for the inputs of a call.
        """
        self._weights = _picker(positions)
        self._learn = learn
        self._known: dict[tuple[int, ...], Served] = {}
        self._watched: dict[tuple[int, ...], list[Any]] = {}

    def __call__(self, *inputs: Any) -> Any:
        """Run the code for these inputs, with the new parameters behind them."""
        served = self._known.get(tuple(map(id, self._weights(inputs))))
        code, slots = served or self.add(inputs, self._learn(inputs))
        return code(*inputs, *[holder[name] for holder, name in slots])

    def add(self, inputs: Sequence[Any], served: Served) -> Served:
        """Remember what serves these weights, for as long as they live: identities are used again."""
        weights = self._weights(inputs)
        key = tuple(map(id, weights))
        self._known[key] = served
        self._watched[key] = [weakref.ref(weight, partial(self._forget, key)) for weight in weights]
        return served

    def _forget(self, key: tuple[int, ...], dead: Any) -> None:
        self._known.pop(key, None)
        self._watched.pop(key, None)


def _picker(positions: Sequence[int]) -> Callable[[Sequence[Any]], tuple[Any, ...]]:
    if not positions:
        return lambda inputs: ()
    return itemgetter(*positions, positions[0])  # of one position alone it would make no tuple
