"""A chain of residual sites and the plain residual network it must equal; shared by the tests of this folder."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

import torch
from torch import Tensor

from mhc_compile.errors import InvalidOptionError
from mhc_compile.kernels.formulas import connections
from mhc_compile.kernels.operators import streams

MULTI_STREAM = ("hc", "hc-static", "mhc", "mhc-lite", "circulant", "identity", "identity:magnitude=1.5,eps=0.01")


def takes(connection: str, n: int) -> bool:
    try:
        connections.find(connection, n)
    except InvalidOptionError:
        return False
    return True


def site_parameters(connection: str, n: int, channels: int, **options) -> dict[str, Tensor]:
    defaults = {"position": 0, "linear": True, "init": "preserve", "dtype": torch.float64, "device": "cpu"}
    return connections.initial_values(connection, n, channels, **(defaults | options))


def noisy(values: dict[str, Tensor], std: float = 0.3) -> list[Tensor]:
    """Parameters away from their initial values, so that no term vanishes."""
    return [v + std * torch.randn_like(v) for v in values.values()]


@dataclass
class Chain:
    """`depth` sites with branches tanh(u @ W); a nonlinear op follows each add unless `linear`."""

    connection: str
    n: int
    how: str = "mean"
    linear: bool = True
    channels: int = 5
    depth: int = 4
    init: str = "preserve"

    def __post_init__(self) -> None:
        c, options = self.channels, {"dtype": torch.float64, "device": "cpu", "linear": self.linear, "init": self.init}
        self.weights = [torch.randn(c, c, dtype=torch.float64) for _ in range(self.depth)]
        self.sites = [
            connections.initial_values(self.connection, self.n, c, position=i, **options) for i in range(self.depth)
        ]
        self.readout = connections.readout_values(self.how, self.n, c, connection=self.connection, **options)

    def branch(self, index: int, u: Tensor) -> Tensor:
        return torch.tanh(u @ self.weights[index])

    @property
    def lift(self) -> Callable[[Tensor], Tensor]:
        return (lambda t: 0.9 * t) if self.linear else (lambda t: torch.nn.functional.gelu(t))

    def plain(self, x: Tensor) -> Tensor:
        for i in range(self.depth):
            x = self.lift(x + self.branch(i, x))
        return x

    def __call__(self, x: Tensor) -> Tensor:
        X, eps = self.all_streams(x), connections.readout_eps(self.connection)
        return streams.reduce(X, list(self.readout.values()), how=self.how, axis=x.ndim - 1, eps=eps)

    def all_streams(self, x: Tensor) -> Tensor:
        """Behind the last site, `[n, *x.shape]`."""
        axis, first = x.ndim - 1, list(self.sites[0].values())
        pre, post, R = streams.entry_coefficients(x, first, connection=self.connection, n=self.n, axis=axis)
        X = self.lift(streams.entry_write(x, self.branch(0, streams.entry_read(x, pre)), post, R))
        for i in range(1, self.depth):
            pre, post, R = streams.coefficients(X, list(self.sites[i].values()), connection=self.connection, axis=axis)
            X = self.lift(streams.write(X, self.branch(i, streams.read(X, pre)), post, R))
        return X

    def named(self) -> dict[str, Tensor]:
        sites = {f"{i}.{name}": value for i, site in enumerate(self.sites) for name, value in site.items()}
        return sites | {f"readout.{name}": value for name, value in self.readout.items()}
