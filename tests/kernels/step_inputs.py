"""Inputs of one fused step, in every layout: shared by the tests of all implementations."""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import Tensor

from mhc_compile.kernels.formulas.lookup import manifold_of

LAYOUTS = {"last": ((3, 7, 65), 2), "first": ((2, 33, 3, 5), 1), "tiny": ((2, 3, 5), 2)}
"""Name -> shape of one stream, index of its channels; sizes that no block size divides."""


@dataclass(frozen=True)
class StepInputs:
    """X `[n or 1, *shape]`, y, a valid mix and read weights, and (phi, alpha, bias) with every parameter in play."""

    X: Tensor
    y: Tensor
    mix: Tensor
    pre: Tensor
    params: tuple[Tensor, Tensor, Tensor]
    axis: int


def step_inputs(
    n: int,
    layout: str | tuple[tuple[int, ...], int],
    *,
    equal: bool = False,
    dtype: torch.dtype = torch.float32,
    seed: int = 0,
    connection: str = "mhc",
) -> StepInputs:
    """Random inputs; `layout` is a key of LAYOUTS or a (shape, axis) pair, `equal` makes one stream stand for all."""
    generator = torch.Generator().manual_seed(seed)

    def normal(*shape: int) -> Tensor:
        return torch.randn(*shape, generator=generator, dtype=torch.float64)

    shape, axis = LAYOUTS[layout] if isinstance(layout, str) else layout
    channels = shape[axis]
    tokens = torch.Size(shape).numel() // channels
    manifold = manifold_of(connection)
    columns = manifold.columns(n)
    parameters = torch.float64 if dtype == torch.float64 else torch.float32
    phi = normal(n * channels, columns) / (n * channels) ** 0.5
    matrices = torch.softmax(normal(tokens, n, n), -1)
    mix = torch.cat((1 + 0.3 * normal(tokens, n), matrices.flatten(1)), 1)
    params = (phi, torch.tensor([0.7, 0.5, 0.9])[: len(manifold.parts(n))], 0.5 * normal(columns))
    pre = torch.rand(tokens, n, generator=generator, dtype=torch.float64)
    return StepInputs(
        normal(1 if equal else n, *shape).to(dtype),
        normal(*shape).to(dtype),
        mix.to(parameters),
        pre.to(parameters),
        tuple(p.to(parameters) for p in params),  # type: ignore[arg-type]
        axis,
    )
