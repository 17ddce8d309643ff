"""What a user could use instead: the mHC layers of transformers (DeepSeek-V4), lucidrains and Liger.

Each is wrapped so that one site has the same interface: `read(state) -> (u, state)`, `write(state, y) -> state`.
Streams enter and leave as `[n, batch, length, C]`.
"""

from __future__ import annotations

from collections.abc import Sequence
from types import SimpleNamespace
from typing import Any

import torch
from torch import Tensor, nn

from mhc_compile.kernels.operators import single_pass, streams

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


class LigerSite(nn.Module):
    """The Triton kernels of Liger-Kernel, as its `LigerMHC` calls them; CUDA only; streams `[B, S, n, C]`."""

    def __init__(self, n: int, channels: int) -> None:
        super().__init__()
        columns = n * n + 2 * n
        self.phi = nn.Parameter(0.02 * torch.randn(n * channels, columns))
        self.bias = nn.Parameter(torch.zeros(columns))
        self.alphas = nn.ParameterList(torch.tensor(0.01) for _ in range(3))

    enter = staticmethod(DeepSeekSite.enter)
    leave = staticmethod(DeepSeekSite.leave)

    def read(self, X: Tensor) -> tuple[Tensor, Any]:
        """The input of the branch, and what the write needs."""
        from liger_kernel.transformers import functional

        phi, bias, alphas = self.phi.to(X.dtype), self.bias.float(), (alpha.float() for alpha in self.alphas)
        pre, post, res = functional.liger_mhc_coeffs(X, phi, bias, *alphas, allow_fp32=True, tmax=SINKHORN_ITERATIONS)
        return functional.liger_mhc_pre(X, pre).to(X.dtype), (X, post, res)

    def write(self, state: Any, y: Tensor) -> Tensor:
        """As `LigerMHC.forward`."""
        from liger_kernel.transformers import functional

        X, post, res = state
        return functional.liger_mhc_post_res(X, y, post, res).to(X.dtype)


SITES = {"DeepSeek-V4": DeepSeekSite, "lucidrains": LucidrainsSite}
CUDA_SITES = {**SITES, "Liger": LigerSite}


def sites(device: str) -> dict[str, type[nn.Module]]:
    """Name -> site, of those that run on this device."""
    return CUDA_SITES if torch.device(device).type == "cuda" else SITES


class Mixing(nn.Module):
    """Interior sites whose branch outputs are given: write, coefficients and read in turn, and nothing else."""

    def __init__(self, site: type[nn.Module], n: int, channels: int, sites: int) -> None:
        super().__init__()
        self.first = site(n, channels)
        self.sites = nn.ModuleList(site(n, channels) for _ in range(sites))

    def start(self, X: Tensor) -> Any:
        """What the first write needs, from streams `[n, B, S, C]`."""
        return self.first.read(self.first.enter(X))[1]  # type: ignore[operator]

    def forward(self, state: Any, branches: Sequence[Tensor]) -> tuple[Any, list[Tensor]]:
        """One branch output per site to the last state and the inputs of all branches."""
        reads = []
        for site, y in zip(self.sites, branches, strict=True):
            u, state = site.read(self.first.write(state, y))  # type: ignore[operator]
            reads.append(u)
        return state, reads


class OurSite(nn.Module):
    """Parameters of one site of this project."""

    def __init__(self, n: int, channels: int, connection: str = "mhc") -> None:
        from mhc_compile.kernels.formulas.connections import initial_values

        super().__init__()
        generator = torch.Generator().manual_seed(0)
        values = initial_values(connection, n, channels, position=0, linear=True, init="random", dtype=torch.float32,
                                device="cpu", generator=generator)  # fmt: skip
        for name, value in values.items():
            self.register_parameter(name, nn.Parameter(value))

    def all(self) -> tuple[Tensor, ...]:
        """In the order of the kernels."""
        return tuple(self.parameters())


class OurMixing(nn.Module):
    """`Mixing` with the steps of this project, as `mhc_compile.transform` puts them into a model."""

    def __init__(self, n: int, channels: int, sites: int, connection: str = "mhc") -> None:
        from mhc_compile.kernels.formulas.lookup import find

        super().__init__()
        self.connection, row = connection, find(connection, n)
        self.advance = self._separate if row.manifold is None else self._single if row.single_pass else self._boundary
        self.first = OurSite(n, channels, connection)
        self.sites = nn.ModuleList(OurSite(n, channels, connection) for _ in range(sites))

    def start(self, X: Tensor) -> Any:
        """As `Mixing.start`."""
        options: dict[str, Any] = {"axis": -1, "connection": self.connection}
        if self.advance == self._separate:
            return X, *streams.coefficients(X, self.first.all(), **options)[1:]
        gate = single_pass.single_gate if self.advance == self._single else streams.gate
        first, mix = gate(X, self.first.all(), **options)
        return (X, first, mix) if self.advance == self._single else (X, mix)

    def forward(self, state: Any, branches: Sequence[Tensor]) -> tuple[Any, list[Tensor]]:
        """As `Mixing.forward`."""
        reads = []
        for site, y in zip(self.sites, branches, strict=True):
            state, u = self.advance(state, y, site.all())  # type: ignore[operator]
            reads.append(u)
        return state, reads

    def _boundary(self, state: Any, y: Tensor, params: Sequence[Tensor]) -> tuple[Any, Tensor]:
        X, mix = state
        X, u, mix = streams.boundary(X, y, mix, params, axis=-1, connection=self.connection)
        return (X, mix), u

    def _single(self, state: Any, y: Tensor, params: Sequence[Tensor]) -> tuple[Any, Tensor]:
        X, pre, mix = state
        X, u, pre, mix = single_pass.single_boundary(X, y, mix, pre, params, axis=-1, connection=self.connection)
        return (X, pre, mix), u

    def _separate(self, state: Any, y: Tensor, params: Sequence[Tensor]) -> tuple[Any, Tensor]:
        X = streams.write(state[0], y, *state[1:])
        pre, *rest = streams.coefficients(X, params, connection=self.connection, axis=-1)
        return (X, *rest), streams.read(X, pre)
