"""Residual connections whose skip or branch goes through another module, a tuple, a view or a slice."""

from __future__ import annotations

import torch
from torch import Tensor, nn

from tests.passes.layers import (
    BATCH,
    TOKENS,
    WIDTH,
    Mlp,
    Net,
    mlps,
)


class AddInside(nn.Module):
    """Bloom: the residual is an argument of the branch's module."""

    def __init__(self) -> None:
        super().__init__()
        self.f = Mlp()

    def forward(self, x: Tensor, residual: Tensor) -> Tensor:
        return residual + self.f(x)


class Pair(nn.Module):
    """DBRX: norm and attention in one module that returns the residual beside its result."""

    def __init__(self) -> None:
        super().__init__()
        self.norm, self.f = nn.LayerNorm(WIDTH), Mlp()

    def forward(self, x: Tensor) -> tuple[Tensor, Tensor]:
        return x, self.f(self.norm(x))


def add_elsewhere() -> nn.Module:
    return Net(lambda m, x: m.b(m.n(u := m.a(m.n(x), x)), u), a=AddInside(), b=AddInside(), n=nn.LayerNorm(WIDTH))


def through_tuple() -> nn.Module:
    def body(m: Net, x: Tensor) -> Tensor:
        skip, y = m.a(x)
        skip, y = m.b(skip + y)
        return skip + y

    return Net(body, a=Pair(), b=Pair())


def through_2d_view() -> nn.Module:
    """OPT: the feed-forward part works on rows."""

    def body(m: Net, x: Tensor) -> Tensor:
        x = x + m.f0(x)
        rows = x.reshape(-1, WIDTH)
        rows = rows + m.f1(rows)
        x = rows.view(BATCH, TOKENS, WIDTH)
        return x + m.f2(x)

    return Net(body, **mlps(3))


def added_in_2d() -> nn.Module:
    """DBRX: the branch reads three axes, the sum has two."""

    def body(m: Net, x: Tensor) -> Tensor:
        x = x + m.f0(x)
        rows = x.view(-1, WIDTH) + m.f1(x).view(-1, WIDTH)
        return rows.view(BATCH, TOKENS, WIDTH)

    return Net(body, **mlps(2))


def sliced_branch() -> nn.Module:
    """The branch computes one token more than the skip has."""

    def body(m: Net, x: Tensor) -> Tensor:
        return x + m.f0(torch.cat((x[:, :1], x), 1))[:, :-1]

    return Net(body, **mlps(1))


def sliced_skip() -> nn.Module:
    """TimeSformer: the class token is cut off the skip."""
    return Net(lambda m, x: x[:, 1:] + m.f0(x)[:, 1:], **mlps(1))
