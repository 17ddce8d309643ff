"""One compiled graph serves every module of a class: which new parameters it takes depends on whom it is called for.

Dynamo makes the parameters of modules inputs of its graphs. Behind a graph break in a loop over blocks, and for blocks
that are compiled one by one, it compiles the first block and calls the result with the parameters of all others.
"""

from __future__ import annotations

import weakref
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from functools import partial
from operator import getitem, itemgetter
from typing import Any

from mhc_compile.dynamo.new_parameters import Slots

Run = Callable[[Sequence[Any]], Any]


@dataclass(frozen=True)
class Served:
    """What runs for certain modules.

    Attributes:
        code: called with the inputs of the graph and the new parameters behind them.
        slots: where those parameters are.
        current: whether the slots are still those of the model.
        positions: inputs that tell these modules from others.
    """

    code: Callable[..., Any]
    slots: Slots = ()
    current: Callable[[], bool] | None = None
    positions: tuple[int, ...] = field(default=())

    def runner(self, outdated: Run) -> Run:
        """A function of the inputs, which are handed to `outdated` once the slots are no longer those of the model."""
        code, current = self.code, self.current
        holders, names = [holder for holder, _ in self.slots], [name for _, name in self.slots]

        def run(inputs: Sequence[Any]) -> Any:
            if current is not None and not current():
                return outdated(inputs)
            return code(*inputs, *map(getitem, holders, names))

        return run


class Instances:
    """What a compiled graph does, by the identity of the weights that it is called with."""

    def __init__(self, positions: Sequence[int], learn: Callable[[Sequence[Any]], Served]) -> None:
        """Know nobody yet.

        Args:
            positions: which inputs tell the modules apart, as far as is known.
            learn: finds out, or creates, what is needed for the inputs of a call.
        """
        self._learn = learn
        self._known: dict[tuple[int, ...], Run] = {}
        self._watched: dict[tuple[int, ...], list[Any]] = {}
        self._positions: tuple[int, ...] = ()
        self._weights = _picker(positions)
        self._widen(positions)

    def function(self) -> Callable[..., Any]:
        """Runs the code for the inputs it is given. A plain function, which Dynamo can mark as not to be traced."""
        known = self._known

        def call(*inputs: Any) -> Any:
            run = known.get(tuple(map(id, self._weights(inputs))))
            return run(inputs) if run is not None else self.add(inputs, self._learn(inputs))(inputs)

        return call

    def add(self, inputs: Sequence[Any], served: Served) -> Run:
        """Remember what serves these weights, for as long as they live: identities are used again."""
        self._widen(served.positions)
        weights = self._weights(inputs)
        key = tuple(map(id, weights))
        run = self._known[key] = served.runner(self._start_anew)
        self._watched[key] = [weakref.ref(weight, partial(self._forget, key)) for weight in weights]
        return run

    def _widen(self, positions: Sequence[int]) -> None:
        """Look at further inputs from now on; what was learnt with fewer is learnt again."""
        together = tuple(dict.fromkeys((*self._positions, *positions)))
        if together != self._positions:
            self._positions, self._weights = together, _picker(together)
            self._known.clear()
            self._watched.clear()

    def _start_anew(self, inputs: Sequence[Any]) -> Any:
        self._known.clear()
        self._watched.clear()
        return self.add(inputs, self._learn(inputs))(inputs)

    def _forget(self, key: tuple[int, ...], dead: Any) -> None:
        self._known.pop(key, None)
        self._watched.pop(key, None)


def _picker(positions: Sequence[int]) -> Callable[[Sequence[Any]], tuple[Any, ...]]:
    if not positions:
        return lambda inputs: ()
    return itemgetter(*positions, positions[0])  # of one position alone it would make no tuple
