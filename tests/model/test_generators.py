"""Numbers that a model draws itself, in Python, are others at every call, as they are in the plain model."""

from __future__ import annotations

import random
import time

import numpy as np
import pytest
import torch
from torch import Tensor

from tests.moved import Net, X, moved
from tests.tables import also


class Drawing(Net):
    def forward(self, x: Tensor) -> Tensor:
        return super().forward(x) * random.uniform(0.5, 1.5)


class DrawingByNumpy(Net):
    def forward(self, x: Tensor) -> Tensor:
        return super().forward(x) * float(np.random.uniform(0.5, 1.5))


class Timed(Net):
    def forward(self, x: Tensor) -> Tensor:
        return super().forward(x) * (time.perf_counter() % 1.0 + 0.1)


class OwnGenerator(Net):
    """Draws from a generator of its own, made by `make`."""

    make = staticmethod(lambda: random.Random(0))

    def __init__(self) -> None:
        super().__init__()
        self.generator = self.make()

    def forward(self, x: Tensor) -> Tensor:
        return super().forward(x) * self.draw()

    def draw(self) -> float:
        return 0.1 + self.generator.random()


class OfNumpy(OwnGenerator):
    make = staticmethod(lambda: np.random.default_rng(0))


class OfTorch(OwnGenerator):
    make = staticmethod(lambda: torch.Generator().manual_seed(0))

    def draw(self) -> Tensor:
        return torch.rand((), generator=self.generator)


@pytest.mark.filterwarnings("ignore::mhc_compile.errors.FallbackWarning")
@pytest.mark.parametrize("kind", [OwnGenerator, OfTorch, *also(OfNumpy)])
def test_a_generator_of_the_models_own_goes_on_where_it_was(kind):
    t, twin = moved(kind()), kind()
    found = [float(t(X).detach().sum()) for _ in range(3)]
    expected = [float(twin.draw()) for _ in range(3)]
    assert [value / found[0] for value in found] == pytest.approx([value / expected[0] for value in expected], rel=1e-4)


@pytest.mark.filterwarnings("ignore::mhc_compile.errors.FallbackWarning")
@pytest.mark.parametrize("make", [Drawing, *also(DrawingByNumpy, Timed)])
def test_a_number_drawn_by_python_or_numpy_or_the_time_is_another_at_every_call(make):
    t = moved(make())
    assert len({float(t(X).sum()) for _ in range(3)}) == 3
