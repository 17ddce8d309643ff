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

Learn = Callable[[Sequence[Any]], Slots]


class Instances:
    """The parameters by the identity of the weights that a graph is called with."""

    def __init__(self, positions: Sequence[int], learn: Learn) -> None:
        """Know nobody yet.

        Args:
            positions: which inputs tell the modules apart.
            learn: finds or creates the new parameters for the inputs of a call.
        """
        self._weights = _picker(positions)
        self._learn = learn
        self._known: dict[tuple[int, ...], Slots] = {}
        self._watched: dict[tuple[int, ...], list[Any]] = {}

    def values(self, inputs: Sequence[Any]) -> list[Any]:
        """The new parameters for a call."""
        slots = self._known.get(tuple(map(id, self._weights(inputs))))
        if slots is None:
            slots = self.add(inputs, self._learn(inputs))
        return [holder[name] for holder, name in slots]

    def add(self, inputs: Sequence[Any], slots: Slots) -> Slots:
        """Remember whose parameters these are, for as long as the weights live: identities are used again."""
        weights = self._weights(inputs)
        key = tuple(map(id, weights))
        self._known[key] = slots
        self._watched[key] = [weakref.ref(weight, partial(self._forget, key)) for weight in weights]
        return slots

    def _forget(self, key: tuple[int, ...], dead: Any) -> None:
        self._known.pop(key, None)
        self._watched.pop(key, None)


def _picker(positions: Sequence[int]) -> Callable[[Sequence[Any]], tuple[Any, ...]]:
    if not positions:
        return lambda inputs: ()
    return itemgetter(*positions, positions[0])  # of one position alone it would make no tuple
