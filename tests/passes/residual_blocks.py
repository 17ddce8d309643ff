"""Blocks whose adds are residual connections: where the norm stands, what is scaled, what is written in place."""

from __future__ import annotations

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from tests.passes.layers import (
    WIDTH,
    Attention,
    Mlp,
    Net,
    PreNorm,
    conv,
    mlps,
    vector,
)


def pre_norm() -> nn.Module:
    return nn.Sequential(PreNorm(), PreNorm())


def convnext() -> nn.Module:
    def body(m: Net, x: Tensor) -> Tensor:
        for i in range(2):
            branch = m.get_submodule(f"b{i}")
            x = x + branch.mlp(branch.norm(branch.dw(x).permute(0, 2, 3, 1))).permute(0, 3, 1, 2)
        return x

    def branch() -> nn.Module:
        depthwise = nn.Conv2d(WIDTH, WIDTH, 3, padding=1, groups=WIDTH)
        return nn.ModuleDict({"dw": depthwise, "norm": nn.LayerNorm(WIDTH), "mlp": Mlp()})

    return Net(body, b0=branch(), b1=branch())


def post_norm() -> nn.Module:
    """BERT: the norm between two sites is lifted."""
    body = lambda m, x: m.n2(m.f2(u := m.n1(m.f1(x) + x)) + u)
    return Net(body, f1=Attention(), f2=Mlp(), n1=nn.LayerNorm(WIDTH), n2=nn.LayerNorm(WIDTH))


def rms(x: Tensor, weight: Tensor) -> Tensor:
    """RMSNorm spelled out, as in Llama: the statistics in fp32 or more."""
    return weight * (x * torch.rsqrt(x.pow(2).mean(-1, keepdim=True) + 1e-6))


def post_rms_norm() -> nn.Module:
    return Net(lambda m, x: rms((u := rms(x + m.f0(x), m.g)) + m.f1(u), m.g), g=vector(), **mlps(2))


def norm_in_branch() -> nn.Module:
    """Swin v2."""
    return Net(lambda m, x: (u := x + m.n(m.f0(x))) + m.n(m.f1(u)), n=nn.LayerNorm(WIDTH), **mlps(2))


def resnet() -> nn.Module:
    """A stage: the first block changes the number of channels by a projection, two follow."""

    def body(m: Net, x: Tensor) -> Tensor:
        x = F.relu(m.f0(x) + m.short(x))
        x = F.relu(m.f1(x) + x)
        return F.relu(m.f2(x) + x)

    return Net(body, f0=conv(WIDTH, 16, 2), f1=conv(16), f2=conv(16), short=conv(WIDTH, 16, 2)).eval()


def parallel() -> nn.Module:
    """GPT-J: both branches read one norm."""

    def body(m: Net, x: Tensor) -> Tensor:
        for i in range(2):
            layer = m.get_submodule(f"l{i}")
            u = layer.n(x)
            x = x + layer.attn(u) + layer.mlp(u)
        return x

    layer = lambda: nn.ModuleDict({"n": nn.LayerNorm(WIDTH), "attn": Attention(), "mlp": Mlp()})
    return Net(body, l0=layer(), l1=layer())


def scaled_skip() -> nn.Module:
    """DeepNorm, and a learned vector on the skip."""
    return Net(lambda m, x: (u := x * 0.8 + m.f0(x)) * m.g + m.f1(u), g=vector(), **mlps(2))


def scaled_branch() -> nn.Module:
    """Granite, and LayerScale."""
    return Net(lambda m, x: (u := x + 0.2 * m.f0(x)) + m.g * m.f1(u), g=vector(), **mlps(2))


def drop_path() -> nn.Module:
    """Stochastic depth of timm, in training."""

    def drop(y: Tensor) -> Tensor:
        return y * torch.ones((y.shape[0], 1, 1), dtype=y.dtype).bernoulli_(1.0)

    return Net(lambda m, x: (u := x + drop(m.f0(x))) + drop(m.f1(u)), **mlps(2))


def in_place() -> nn.Module:
    """`add_`, `+=`, `alpha=` and `sub`."""

    def body(m: Net, x: Tensor) -> Tensor:
        x = m.stem(x)
        y = m.f0(x)
        y += x
        z = m.f1(y).add_(y)
        w = torch.add(z, m.f2(z), alpha=0.5)
        return torch.sub(w, m.f3(w))

    return Net(body, stem=nn.Linear(WIDTH, WIDTH), **mlps(4))


def wide_residual() -> nn.Module:
    """A residual stream in a wider dtype than the branches; fp32 under an fp64 stream here, as fp64 is the widest."""

    def body(m: Net, x: Tensor) -> Tensor:
        u = x.to(torch.float64) + m.f0(x).to(torch.float64)
        return u + m.f1(u.to(x.dtype)).to(torch.float64)

    return Net(body, **mlps(2))
