"""The new parameters of a plan: names, shapes and initial values."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass

import torch
from torch import Tensor

from mhc_compile.config import Config
from mhc_compile.kernels.formulas.connections import initial_values, parameter_shapes, readout_shapes, readout_values
from mhc_compile.passes.plan.data import Plan
from mhc_compile.passes.plan.keys import identifier


@dataclass(frozen=True)
class ParameterSpec:
    """The parameters of one site or of one learned readout.

    Attributes:
        key: site key, or readout key.
        connection: the connection of the plan.
        reduce: how a readout reduces streams, None for a site, and for a readout that reads sources as a site does.
        n: number of streams, or of sources.
        channels: number of channels C.
        position: index of the site in its segment.
        linear: whether streams may differ from the start (`Segment.linear`).
        init: `preserve`, `random` or `paper`.
        shapes: parameter names to shapes, in the order the kernels take them.
    """

    key: str
    connection: str
    reduce: str | None
    n: int
    channels: int
    position: int
    linear: bool
    init: str
    shapes: dict[str, tuple[int, ...]]

    @property
    def identifier(self) -> str:
        """Name of the child module that holds the parameters."""
        return identifier(self.key)

    def initial_values(self, dtype: torch.dtype, device: torch.device | str) -> dict[str, Tensor]:
        """Initial values by name, fp32 or fp64, on the device. They can be trained, whatever mode PyTorch is in.

        They are made on the CPU and moved, also where a library has set the meta device for what it constructs.
        """
        with torch.inference_mode(False), torch.device("cpu"):
            if self.reduce is not None:
                return readout_values(
                    self.reduce, self.n, self.channels, linear=self.linear, init=self.init, dtype=dtype, device=device,
                    connection=self.connection,
                )  # fmt: skip
            return initial_values(
                self.connection, self.n, self.channels,
                position=self.position, linear=self.linear, init=self.init, dtype=dtype, device=device,
            )  # fmt: skip


def parameter_specs(plan: Plan, config: Config) -> dict[str, ParameterSpec]:
    """Every parameter group of the plan by key; sites and readouts without parameters are left out."""
    specs = [*_site_specs(plan, config), *_readout_specs(plan, config)]
    return {spec.key: spec for spec in specs if spec.shapes}


def _site_specs(plan: Plan, config: Config) -> Iterator[ParameterSpec]:
    connection = config.effective_connection
    for segment in plan.segments:
        for position, key in enumerate(segment.sites):
            n, channels = len(plan.site(key).sources) or config.streams, plan.site(key).channels
            shapes = parameter_shapes(connection, n, channels)
            yield ParameterSpec(key, connection, None, n, channels, position, segment.linear, config.init, shapes)


def _readout_specs(plan: Plan, config: Config) -> Iterator[ParameterSpec]:
    n, connection = config.streams, config.effective_connection
    for segment in plan.segments:
        for readout in segment.readouts:
            if count := len(readout.sources):
                shapes = parameter_shapes(connection, count, readout.channels)
                yield ParameterSpec(
                    readout.key, connection, None, count, readout.channels, 0, segment.linear, config.init, shapes
                )
                continue
            shapes = readout_shapes(config.reduce, n, readout.channels) if readout.parameters else {}
            yield ParameterSpec(
                readout.key, connection, config.reduce, n, readout.channels, 0, segment.linear, config.init, shapes
            )
