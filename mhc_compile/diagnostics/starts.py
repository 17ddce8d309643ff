"""How far new parameters have moved since `transform`, and what their gradients are."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import torch
from torch import Tensor, nn

from mhc_compile._torch_compat import is_cut
from mhc_compile.config import Config
from mhc_compile.diagnostics.data import Parameter
from mhc_compile.passes.plan.data import Plan
from mhc_compile.programs.specs import all_specs
from mhc_compile.programs.unsharded import placed
from mhc_compile.twin.hyper_connections import HyperConnections

Start = Tensor | float | None
"""Initial value; one number where all are alike, None where it was drawn at random."""


@dataclass(frozen=True)
class Starts:
    """The initial values of the new parameters of one model: site key -> parameter name -> value on the CPU, whole."""

    values: Mapping[str, Mapping[str, Start]]

    @classmethod
    def of(cls, plans: Sequence[Plan], config: Config) -> Starts:
        """Those that `transform` gives with these options, and without them the wider of both where they differ."""
        values: dict[str, dict[str, Start]] = {}
        for key, spec in all_specs(plans, config).items():
            made = spec.initial_values(torch.float64, "cpu")
            random = config.init == "random"
            values[key] = {
                name: None if random and name.startswith(("phi", "w_")) else _short(value)
                for name, value in made.items()
            }
        return cls(values)

    def figures(self, child: HyperConnections, key: str) -> tuple[Parameter, ...]:
        """What is said of the parameters of one site; of sharded ones, every process of the group asks."""
        if key not in child:
            return ()
        starts = self.values.get(key, {})
        return tuple(_parameter(n, p, starts.get(n)) for n, p in child[key].named_parameters())


def _parameter(name: str, parameter: nn.Parameter, start: Start) -> Parameter:
    value = parameter.detach()
    size = _rms(value)
    distance = None if start is None else _distance(value, start)
    gradient = None if parameter.grad is None else _rms(parameter.grad)
    return Parameter(str(name), distance, gradient, math.isfinite(size))


def _distance(value: Tensor, start: Tensor | float) -> float:
    if isinstance(start, float):
        return _rms(value - start if start else value)
    begin = start.to(value.device, value.dtype)
    return _rms(value - (placed(begin, value, source=None) if is_cut(value) else begin))  # type: ignore[arg-type]


def _rms(value: Tensor) -> float:
    """Root mean square over all processes that have a part."""
    square = value.float().square().mean() if value.dtype != torch.float64 else value.square().mean()
    whole = square.full_tensor() if is_cut(square) else square  # type: ignore[attr-defined]
    return math.sqrt(whole.item()) if whole.isfinite() else math.nan


def _short(value: Tensor) -> Start:
    first = value.flatten()[0]
    return first.item() if bool((value == first).all()) else value
