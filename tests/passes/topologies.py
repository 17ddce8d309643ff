"""Networks that are more than one chain: several streams, long skips, a memory, experts, checkpoints, shared layers."""

from __future__ import annotations

import torch
import torch.nn.functional as F
from torch import Tensor, nn
from torch.utils.checkpoint import checkpoint

from tests.passes.layers import (
    WIDTH,
    Attention,
    Mlp,
    Net,
    Net2,
    PreNorm,
    mlps,
    vector,
)


def hyper_connected() -> nn.Module:
    """A model with its own hyper-connections, as DeepSeek-V4."""

    def body(m: Net, x: Tensor) -> Tensor:
        streams = x.unsqueeze(2).expand(-1, -1, 2, -1)
        for f in (m.f0, m.f1):
            u = (streams * m.pre).sum(2)
            mixing = m.mixing(streams).softmax(-1)
            streams = mixing @ streams + f(u).unsqueeze(2) * m.post
        return streams.mean(2)

    gates = {name: nn.Parameter(torch.rand(2, 1)) for name in ("pre", "post")}
    return Net(body, mixing=nn.Linear(WIDTH, 2), **gates, **mlps(2))


def reversible() -> nn.Module:
    """Reformer: two streams, each of which is updated from the other."""

    def body(m: Net, x: Tensor) -> Tensor:
        a, b = x, x
        for f, g in ((m.f0, m.f1), (m.f2, m.f3)):
            a = a + f(b)
            b = b + g(a)
        return torch.cat((a, b), -1)

    return Net(body, **mlps(4))


def long_skip() -> nn.Module:
    """EDSR: a skip round the whole chain."""
    return Net(lambda m, x: x + m.end((u := x + m.f0(x)) + m.f1(u)), end=nn.Linear(WIDTH, WIDTH), **mlps(2))


def token_shift() -> nn.Module:
    """RWKV: a lerp of each token with the one before, inside the branch."""

    def body(m: Net, x: Tensor) -> Tensor:
        for f in (m.f0, m.f1):
            shifted = F.pad(x, (0, 0, 1, -1))
            x = x + f(x + (shifted - x) * m.mix)
        return x

    return Net(body, mix=vector(), **mlps(2))


def cross_attention() -> nn.Module:
    """A T5 decoder layer."""

    def body(m: Net, x: Tensor, memory: Tensor) -> Tensor:
        x = x + m.self_attn(m.n(x))
        x = x + m.cross_attn(m.n(x), memory)
        return x + m.f0(m.n(x))

    return Net2(body, self_attn=Attention(), cross_attn=Attention(), n=nn.LayerNorm(WIDTH), **mlps(1))


class Mixture(nn.Module):
    """A dense mixture of experts with a shared one; its sums are no residuals."""

    def __init__(self) -> None:
        super().__init__()
        self.gate, self.shared = nn.Linear(WIDTH, 2), Mlp()
        self.experts = nn.ModuleList([Mlp(), Mlp()])

    def forward(self, x: Tensor) -> Tensor:
        gates = torch.softmax(self.gate(x), -1)
        routed = gates[..., :1] * self.experts[0](x) + gates[..., 1:] * self.experts[1](x)
        return routed + self.shared(x)


def mixture() -> nn.Module:
    return Net(lambda m, x: (u := x + m.moe(x)) + m.f0(u), moe=Mixture(), **mlps(1))


def checkpointed() -> nn.Module:
    """Hugging Face in training: the blocks are bodies of activation checkpoints."""

    class Layer(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.f = Mlp()

        def forward(self, x: Tensor) -> Tensor:
            return x + checkpoint(self.f, x, use_reentrant=False)

    return nn.Sequential(Layer(), Layer())


class Checkpointed(nn.Module):
    """The whole layer, its residual connection included, is recomputed."""

    def __init__(self) -> None:
        super().__init__()
        self.layers = nn.ModuleList([PreNorm(), PreNorm()])

    def forward(self, x: Tensor) -> Tensor:
        for layer in self.layers:
            x = checkpoint(layer, x, use_reentrant=False)
        return x


def shared_layers() -> nn.Module:
    """ALBERT: one layer, used three times."""

    def body(m: Net, x: Tensor) -> Tensor:
        for _ in range(3):
            x = m.layer(x)
        return x

    return Net(body, layer=PreNorm())
