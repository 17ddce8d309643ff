"""What a user could use instead: the mHC layers of transformers (DeepSeek-V4) and of lucidrains (hyper-connections).

Each is wrapped so that one site has the same interface: `read(state) -> (u, state)`, `write(state, y) -> state`.
Streams enter and leave as `[n, batch, length, C]`.
"""

from __future__ import annotations

from types import SimpleNamespace
from typing import Any

import torch
from torch import Tensor, nn

SINKHORN_ITERATIONS = 20


class DeepSeekSite(nn.Module):
    """`DeepseekV4HyperConnection` of transformers, merged as its decoder layer does; streams `[B, S, n, C]`."""

    def __init__(self, n: int, channels: int) -> None:
        from transformers.models.deepseek_v4.modeling_deepseek_v4 import DeepseekV4HyperConnection

        super().__init__()
        config = SimpleNamespace(
            hc_mult=n, hc_sinkhorn_iters=SINKHORN_ITERATIONS, hc_eps=1e-6, hidden_size=channels, rms_norm_eps=1e-6
        )
        self.connection = DeepseekV4HyperConnection(config)
        nn.init.normal_(self.connection.fn, std=0.02)
        nn.init.zeros_(self.connection.base)
        nn.init.constant_(self.connection.scale, 0.01)

    @staticmethod
    def enter(X: Tensor) -> Tensor:
        """From `[n, B, S, C]`."""
        return X.permute(1, 2, 0, 3).contiguous()

    @staticmethod
    def leave(X: Tensor) -> Tensor:
        """The mean over streams."""
        return X.mean(2)

    def read(self, X: Tensor) -> tuple[Tensor, Any]:
        """The input of the branch, and what the write needs."""
        post, comb, u = self.connection(X)
        return u, (X, post, comb)

    def write(self, state: Any, y: Tensor) -> Tensor:
        """As `DeepseekV4DecoderLayer.forward`."""
        X, post, comb = state
        mixed = torch.matmul(comb.to(X.dtype).transpose(-1, -2), X)
        return post.to(X.dtype).unsqueeze(-1) * y.unsqueeze(-2) + mixed


class LucidrainsSite(nn.Module):
    """`ManifoldConstrainedHyperConnections` of the PyPI package hyper-connections; streams `[(B n), S, C]`."""

    def __init__(self, n: int, channels: int) -> None:
        from hyper_connections import ManifoldConstrainedHyperConnections

        super().__init__()
        self.n = n
        self.connection = ManifoldConstrainedHyperConnections(
            n, dim=channels, layer_index=0, sinkhorn_iters=SINKHORN_ITERATIONS
        )

    @staticmethod
    def enter(X: Tensor) -> Tensor:
        """From `[n, B, S, C]`."""
        return X.transpose(0, 1).reshape(-1, *X.shape[2:])

    def leave(self, X: Tensor) -> Tensor:
        """The mean over streams."""
        return X.unflatten(0, (-1, self.n)).mean(1)

    def read(self, X: Tensor) -> tuple[Tensor, Any]:
        """The input of the branch, and what the write needs; this formulation mixes before the branch."""
        u, mixed, rest = self.connection.width_connection(X)
        return u, (mixed, rest)

    def write(self, state: Any, y: Tensor) -> Tensor:
        """Add the branch to the mixed streams."""
        mixed, rest = state
        return self.connection.depth_connection(y, mixed, **rest)


SITES = {"DeepSeek-V4 (transformers)": DeepSeekSite, "lucidrains": LucidrainsSite}


class Mixing(nn.Module):
    """A chain of sites whose branch outputs are given: nothing but the mixing is computed."""

    def __init__(self, site: type[nn.Module], n: int, channels: int, sites: int) -> None:
        super().__init__()
        self.sites = nn.ModuleList(site(n, channels) for _ in range(sites))

    def forward(self, X: Tensor, *branches: Tensor) -> tuple[Tensor, ...]:
        """Streams `[n, B, S, C]` and one branch output per site to the inputs of all branches and the last streams."""
        X = self.sites[0].enter(X)  # type: ignore[operator]
        reads = []
        for site, y in zip(self.sites, branches, strict=True):
            u, state = site.read(X)  # type: ignore[operator]
            reads.append(u)
            X = site.write(state, y)  # type: ignore[operator]
        return *reads, X


class OurMixing(nn.Module):
    """The same chain with this project's fused steps, as `mhc_compile.transform` puts them into a model."""

    def __init__(self, n: int, channels: int, sites: int) -> None:
        from mhc_compile.kernels.connections import initial_values

        super().__init__()
        self.sites = nn.ModuleList(nn.Module() for _ in range(sites))
        for i, site in enumerate(self.sites):
            generator = torch.Generator().manual_seed(i)
            values = initial_values(
                "mhc", n, channels, position=i, linear=True, init="random", dtype=torch.float32, device="cpu",
                generator=generator,
            )  # fmt: skip
            for name, value in values.items():
                site.register_parameter(name, nn.Parameter(value))

    def forward(self, X: Tensor, *branches: Tensor) -> tuple[Tensor, ...]:
        """As `Mixing.forward`."""
        from mhc_compile.kernels import streams

        parameters = [(site.phi, site.alpha, site.bias) for site in self.sites]
        u, mix = streams.gate(X, parameters[0], axis=-1)  # type: ignore[arg-type]
        reads = [u]
        for following, y in zip(parameters[1:], branches, strict=False):
            X, u, mix = streams.boundary(X, y, mix, following, axis=-1)  # type: ignore[arg-type]
            reads.append(u)
        return *reads, streams.write_packed(X, branches[-1], mix, axis=-1)
