"""Sums that look like residual connections and are none, alone or beside real ones."""

from __future__ import annotations

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from tests.passes.layers import (
    BATCH,
    TOKENS,
    WIDTH,
    Attention,
    Net,
    Net2,
    conv,
    mlps,
    vector,
)
from tests.passes.topologies import Mixture


def rotary() -> nn.Module:
    def body(m: Net, x: Tensor) -> Tensor:
        q = m.q(x)
        first, second = q.chunk(2, -1)
        return m.out(q * m.cos + torch.cat((-second, first), -1) * m.sin)

    tables = {name: nn.Buffer(torch.randn(TOKENS, WIDTH)) for name in ("cos", "sin")}
    return Net(body, q=nn.Linear(WIDTH, WIDTH), out=nn.Linear(WIDTH, WIDTH), **tables)


def tanh_gelu() -> nn.Module:
    def body(m: Net, x: Tensor) -> Tensor:
        h = m.a(x)
        return m.b(0.5 * h * (1 + torch.tanh(0.797885 * (h + 0.044715 * torch.pow(h, 3)))))

    return Net(body, a=nn.Linear(WIDTH, WIDTH), b=nn.Linear(WIDTH, WIDTH))


def attention_bias() -> nn.Module:
    """A learned bias and a mask on the scores, of their full shape."""

    def body(m: Net, x: Tensor, y: Tensor) -> Tensor:
        mask = (y @ y.transpose(1, 2)).unsqueeze(1).expand(-1, 2, -1, -1)
        return m.attn(x, None, m.bias + mask)

    return Net2(body, attn=Attention(), bias=nn.Parameter(torch.randn(BATCH, 2, TOKENS, TOKENS)))


def position_embedding() -> nn.Module:
    """One broadcast, one of full shape, before a residual connection."""

    def body(m: Net, x: Tensor) -> Tensor:
        x = m.stem(x) + m.rows
        x = x + m.full
        return x + m.f0(x)

    tables = {"rows": nn.Parameter(torch.randn(TOKENS, WIDTH)), "full": nn.Parameter(torch.randn(BATCH, TOKENS, WIDTH))}
    return Net(body, stem=nn.Linear(WIDTH, WIDTH), **tables, **mlps(1))


def mean_eps() -> nn.Module:
    return Net(lambda m, x: m.f0(x / ((x * x).mean(-1, keepdim=True) + 1e-5).sqrt()), **mlps(1))


def state_update() -> nn.Module:
    """A linear recurrence unrolled: `s = a * s + k(x_t)`, no token depends on the state."""

    def body(m: Net, x: Tensor) -> Tensor:
        keys, decay = m.k(x), torch.sigmoid(m.a(x))
        state = keys[:, 0]
        for t in range(1, 3):
            state = decay[:, t] * state + keys[:, t]
        return m.out(state)

    return Net(body, **{name: nn.Linear(WIDTH, WIDTH) for name in ("k", "a", "out")})


def delta_rule() -> nn.Module:
    """DeltaNet: the state is corrected by what it returns, through no weight."""

    def body(m: Net, x: Tensor) -> Tensor:
        keys, values = m.k(x), m.v(x)
        state = keys[:, 0].unsqueeze(2) * values[:, 0].unsqueeze(1)
        for t in range(1, 3):
            key = keys[:, t].unsqueeze(1)
            state = state + key.transpose(1, 2) @ (values[:, t].unsqueeze(1) - key @ state)
        return m.out(state)

    return Net(body, **{name: nn.Linear(WIDTH, WIDTH) for name in ("k", "v", "out")})


def lora() -> nn.Module:
    body = lambda m, x: m.base(x) + 0.5 * m.b(m.a(x))
    return Net(body, base=nn.Linear(WIDTH, WIDTH), a=nn.Linear(WIDTH, 2), b=nn.Linear(2, WIDTH))


def feature_pyramid() -> nn.Module:
    """FPN: a lateral convolution plus the coarser level, upsampled."""

    def body(m: Net, x: Tensor) -> tuple[Tensor, Tensor]:
        fine = m.c1(x)
        coarse = m.c2(fine)
        top = m.lateral2(coarse)
        return m.lateral1(fine) + F.interpolate(top, scale_factor=2.0), top

    lateral = {f"lateral{i}": nn.Conv2d(WIDTH, WIDTH, 1) for i in (1, 2)}
    return Net(body, c1=conv(), c2=conv(WIDTH, WIDTH, 2), **lateral).eval()


def exchange() -> nn.Module:
    """HRNet: each resolution gets the sum of both."""

    def body(m: Net, x: Tensor) -> tuple[Tensor, Tensor]:
        a, b = m.fine(x), m.coarse(x)
        up = F.interpolate(m.up(b), scale_factor=2.0)
        return F.relu(a + up), F.relu(m.down(a) + b)

    layers = {"fine": conv(), "coarse": conv(WIDTH, WIDTH, 2), "down": conv(WIDTH, WIDTH, 2)}
    return Net(body, up=nn.Conv2d(WIDTH, WIDTH, 1), **layers).eval()


def loss_sum() -> nn.Module:
    """Two losses per token, and their scalar sum."""

    def body(m: Net, x: Tensor, y: Tensor) -> Tensor:
        pred = m.head(x)
        each = (pred - y).square() + 0.1 * pred.abs()
        return each.mean() + pred.square().mean()

    return Net2(body, head=nn.Linear(WIDTH, WIDTH))


def unet() -> nn.Module:
    body = lambda m, x: m.up(torch.cat((x, F.interpolate(m.down(x), scale_factor=2.0)), 1))
    return Net(body, down=conv(WIDTH, WIDTH, 2), up=conv(2 * WIDTH, WIDTH)).eval()


def squeeze_excite() -> nn.Module:
    """The gate holds `x + 3`, its product with x no add at all."""

    def body(m: Net, x: Tensor) -> Tensor:
        gate = m.fc(x.mean((2, 3), keepdim=True))
        return x * F.relu6(gate + 3.0) / 6.0

    return Net(body, fc=nn.Conv2d(WIDTH, WIDTH, 1))


def shared_expert() -> nn.Module:
    return Net(lambda m, x: m.moe(m.n(x)), moe=Mixture(), n=nn.LayerNorm(WIDTH))


def snake() -> nn.Module:
    body = lambda m, x: m.b((h := m.a(x)) + torch.sin(m.alpha * h).pow(2) / m.alpha)
    return Net(body, a=nn.Linear(WIDTH, WIDTH), b=nn.Linear(WIDTH, WIDTH), alpha=vector())


def repvgg() -> nn.Module:
    """Three parallel branches, one of them batch norm alone."""
    body = lambda m, x: F.relu(m.three(x) + m.one(x) + m.bn(x))
    return Net(body, three=conv(), one=nn.Conv2d(WIDTH, WIDTH, 1), bn=nn.BatchNorm2d(WIDTH)).eval()


def positions_every_layer() -> nn.Module:
    """DETR: queries start from an embedding, which is added again in every layer; the real chain lies inside."""

    def body(m: Net, x: Tensor) -> Tensor:
        for attn, f in ((m.attn0, m.f0), (m.attn1, m.f1)):
            position = m.position.expand(BATCH, -1, -1)
            x = m.n(x + attn(x + position))
            x = m.n(x + f(x))
        return x

    position = nn.Parameter(torch.randn(1, TOKENS, WIDTH))
    return Net(body, position=position, attn0=Attention(), attn1=Attention(), n=nn.LayerNorm(WIDTH), **mlps(2))


def queries_from_positions() -> nn.Module:
    """DETR's decoder: the stream itself starts at the embedding, so the embedding is an ancestor of x."""

    def body(m: Net, x: Tensor) -> Tensor:
        position = m.position.expand(BATCH, -1, -1) * 1.0
        h = m.start(position)
        for attn, f in ((m.attn0, m.f0), (m.attn1, m.f1)):
            h = m.n(h + attn(h + position, x))
            h = m.n(h + f(h))
        return h

    position = nn.Parameter(torch.randn(1, TOKENS, WIDTH))
    layers = {"attn0": Attention(), "attn1": Attention(), "n": nn.LayerNorm(WIDTH), "start": nn.Linear(WIDTH, WIDTH)}
    return Net(body, position=position, **layers, **mlps(2))
