"""A transformed model, a plain one beside it whose hyper-connections are a formula, and how the two are compared."""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor

import mhc_compile
from tests.fuzz.checks import FuzzError
from tests.fuzz.residuals import Residual
from tests.fuzz.streams import Called, Drawn, Streams, Watched, build, watched

BOUND, NOISE = 1e-9, 0.3


class Pair:
    """A transformed model and the plain one beside it.

    Attributes:
        model: the transformed one.
        plain: an equal network, on which the formula runs.
        records: of hooks, of the one and the other.
        hooks: handles of the hooks that are there.
    """

    def __init__(self, drawn: Drawn) -> None:
        self.drawn = drawn
        model, self.x = build(drawn)
        self.plain = build(drawn)[0]
        self.model = mhc_compile.transform(
            model, n=drawn.n, connection=drawn.connection, example_inputs=self.x, modes=("train",)
        )
        self.records: tuple[list[Tensor], list[Tensor]] = ([], [])
        self.hooks: list[Any] = []
        self.generator = torch.Generator().manual_seed(drawn.seed)
        with torch.no_grad():
            for parameter in self.model.hyper_connections.parameters():
                parameter.add_(NOISE * torch.randn(parameter.shape, generator=self.generator, dtype=parameter.dtype))

    @property
    def both(self) -> tuple[Called, Called]:
        """The two models."""
        return self.model, self.plain

    def branches(self, index: int) -> tuple[Watched, Watched]:
        """A branch of the one and the same of the other."""
        first, second = (list(watched(model)) for model in self.both)
        return first[index % len(first)], second[index % len(second)]

    def residual(self, index: int) -> int:
        """The index of a residual layer."""
        places = [i for i, layer in enumerate(self.plain.body.layers) if isinstance(layer, Residual)]
        return places[index % len(places)]

    def formula(self) -> Streams:
        """With the parameters of the moment."""
        places = [i for i, layer in enumerate(self.plain.body.layers) if isinstance(layer, Residual)]
        new = self.model.hyper_connections
        return Streams(self.drawn, dict(zip(places, [new[key] for key in new], strict=True)))

    def check(self, what: str) -> None:
        """Call both, and compare all that there is to see."""
        self.compare(what, self.model(self.x), self.formula().model(self.plain, self.x))

    def compare(self, what: str, found: Tensor, expected: Tensor) -> None:
        """Results, what modules keep, and what hooks recorded."""
        same(what, "the result", found, expected)
        for mine, other in zip(*map(watched, self.both), strict=True):
            same(what, "the loss", mine.loss, other.loss)
            if mine.count != other.count or len(mine.kept) != len(other.kept):
                raise FuzzError(f"after {what}, the count is {mine.count} instead of {other.count}")
        mine_recorded, recorded = self.records
        if len(mine_recorded) != len(recorded):
            raise FuzzError(f"after {what}, hooks fired {len(mine_recorded)} times instead of {len(recorded)}")
        for a, b in zip(mine_recorded, recorded, strict=True):
            same(what, "what a hook saw", a, b)


def same(what: str, which: str, found: Tensor, expected: Tensor) -> None:
    """Refuse a result that is further off than rounding."""
    error = (found - expected).abs().max().item() if found.shape == expected.shape else float("inf")
    if not error <= BOUND * max(1.0, expected.abs().max().item()):
        raise FuzzError(f"after {what}, {which} is off by {error:.1e}")
