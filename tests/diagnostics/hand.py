"""Matrices whose figures are known, and a model whose R are these."""

from __future__ import annotations

import math

import torch
from torch import Tensor, nn

import mhc_compile
from examples.train_char_gpt import CharGPT
from tests.copies import copied
from tests.toy_models import WIDTH, Tower

IDENTITY = torch.eye(4, dtype=torch.float64)
PERMUTATION = IDENTITY[[1, 2, 3, 0]]
UNIFORM = torch.full((4, 4), 0.25, dtype=torch.float64)
EXPLODING = 1.5 * PERMUTATION
UNEVEN = torch.tensor(
    [[1.0, -2.0, 0.0, 0.0], [0.0, 1.0, 0.0, 0.0], [0.0, 3.0, 1.0, 0.0], [0.0, 0.0, 0.0, 1.0]]
).double()
"""Largest absolute row sum 4, largest absolute column sum 6: both with signs."""

# name -> (R, forward gain, backward gain, singular values, distance from I, from 1/n, entropy)
KNOWN = {
    "identity": (IDENTITY, 1.0, 1.0, [1.0] * 4, 0.0, math.sqrt(3), 0.0),
    "permutation": (PERMUTATION, 1.0, 1.0, [1.0] * 4, math.sqrt(8), math.sqrt(3), 0.0),
    "uniform": (UNIFORM, 1.0, 1.0, [1.0, 0.0, 0.0, 0.0], math.sqrt(3), 0.0, 1.0),
    "exploding": (EXPLODING, 1.5, 1.5, [1.5] * 4, math.sqrt(13), math.sqrt(7), 0.0),
}


@copied
def tower(depth: int = 4, **options: object) -> tuple[nn.Module, Tensor]:
    """A transformed tower in fp64 whose R are parameters, and its input."""
    torch.manual_seed(0)
    x = torch.randn(2, 3, WIDTH, dtype=torch.float64)
    options = {"connection": "hc-static", "modes": ("train",), **options}
    return mhc_compile.transform(Tower(depth).double(), example_inputs=(x,), **options), x


@copied
def gpt(connection: str, **options: object) -> tuple[nn.Module, Tensor]:
    """A transformed GPT of four sites, and its input."""
    torch.manual_seed(0)
    ids = torch.randint(128, (2, 8))
    options = {"modes": ("train",), "n": 4, "connection": connection, **options}
    return mhc_compile.transform(CharGPT(8, 16, 2, 2), example_inputs=(ids,), **options), ids


def set_mixing(model: nn.Module, matrices: dict[str, Tensor]) -> None:
    """Give sites these R; the parameter is the transpose, as in the paper on hyper-connections."""
    with torch.no_grad():
        for key, R in matrices.items():
            model.hyper_connections[key].static_res.copy_(R.t())
