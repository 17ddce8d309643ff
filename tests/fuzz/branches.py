"""What a residual branch may compute, look-alikes of residual adds included: none of the adds in here is a site.

The one exception is `inner_residual`, a true residual of its own, which is a site where nothing is added around it.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from tests.fuzz.families import BATCH, TOKENS, Family


class Branch(nn.Module):
    """One branch of kind `kind`; every kind uses its own few of the layers."""

    def __init__(self, kind: str, family: Family) -> None:
        super().__init__()
        self.family, self.compute = family, {**BOTH, **(IMAGES if family.images else TOKEN)}[kind]
        self.a, self.b, self.c, self.d = (family.mix() for _ in range(4))
        self.wide = family.mix(before=2)
        self.vector = family.vector()
        self.square, self.low, self.high = _matrices(family.channels)
        self._add_own_layers(family.images, family.channels)

    def _add_own_layers(self, images: bool, channels: int) -> None:
        if images:
            self.bn, self.one = nn.BatchNorm2d(channels), nn.Conv2d(channels, channels, 1)
            self.norm, self.linear = nn.LayerNorm(channels), nn.Linear(channels, channels)
        else:
            self.conv = nn.Conv1d(channels, channels, 3, padding=1)
            self.padded = nn.Conv1d(channels, channels, 3, padding=2)
            self.gru = nn.GRU(channels, channels, batch_first=True)
            self.bias = nn.Parameter(torch.randn(TOKENS, TOKENS))
            self.angles = nn.Buffer(torch.randn(TOKENS, channels))

    def forward(self, u: Tensor, memory: Tensor) -> Tensor:
        """`u` has the shape of the stream, `memory` is what cross-attention attends to."""
        return self.compute(self, u, memory)


def _matrices(channels: int) -> Iterator[nn.Parameter]:
    """A square matrix and two of rank 2."""
    for rows, columns in ((channels, channels), (channels, 2), (2, channels)):
        yield nn.Parameter(torch.randn(rows, columns) / channels**0.5)


def tanh_gelu(h: Tensor) -> Tensor:
    """The polynomial `h + 0.044715 h^3` is no residual."""
    return 0.5 * h * (1.0 + torch.tanh(0.79788456 * (h + 0.044715 * torch.pow(h, 3.0))))


def snake(h: Tensor, alpha: Tensor) -> Tensor:
    """An activation function with a learnable scale and an add."""
    return h + torch.sin(alpha * h).pow(2) / alpha


def _gated(m: Branch, u: Tensor, _: Tensor) -> Tensor:
    h = m.a(u)
    return h * torch.sigmoid(m.b(h.mean(m.family.mixed_axis, keepdim=True)))


def _mixture(m: Branch, u: Tensor, _: Tensor) -> Tensor:
    gate = torch.softmax(m.c(u), dim=m.family.axis)
    first = gate.select(m.family.axis, 0).unsqueeze(m.family.axis)
    return first * m.a(u) + (1 - first) * m.b(u) + m.d(u)


def _contracted(m: Branch, u: Tensor, weight: Tensor) -> Tensor:
    return torch.einsum("bchw,cd->bdhw" if m.family.images else "btc,cd->btd", u, weight)


def _inner_residual(m: Branch, u: Tensor, _: Tensor) -> Tensor:
    h = m.a(u)
    return h + m.c(F.silu(m.b(h)))


def _with_dead_add(m: Branch, u: Tensor, _: Tensor) -> Tensor:
    h = m.a(u)
    _ = h + m.b(h)
    return m.c(h)


def _attend(m: Branch, q: Tensor, k: Tensor, v: Tensor, bias: Tensor | None = None) -> Tensor:
    scores = q @ k.transpose(-2, -1) / 2.0
    if bias is not None:
        scores = scores + bias
    return m.d(torch.softmax(scores, dim=-1) @ v)


def _biased_attention(m: Branch, u: Tensor, _: Tensor) -> Tensor:
    return _attend(m, m.a(u), m.b(u), m.c(u), m.bias)


def _masked_attention(m: Branch, u: Tensor, _: Tensor) -> Tensor:
    bias = m.bias.expand(BATCH, TOKENS, TOKENS)
    return _attend(m, m.a(u), m.b(u), m.c(u), bias * 2.0)


def _rotated(m: Branch, q: Tensor) -> Tensor:
    first, second = q.chunk(2, dim=-1)
    return q * m.angles.cos() + torch.cat((-second, first), dim=-1) * m.angles.sin()


def _rotary_attention(m: Branch, u: Tensor, _: Tensor) -> Tensor:
    return _attend(m, _rotated(m, m.a(u)), _rotated(m, m.b(u)), m.c(u))


def _cross_attention(m: Branch, u: Tensor, memory: Tensor) -> Tensor:
    return _attend(m, m.a(u), m.b(memory), m.c(memory))


def _token_shift(m: Branch, u: Tensor, _: Tensor) -> Tensor:
    shifted = torch.cat((torch.zeros_like(u[:, :1]), u[:, :-1]), dim=1)
    return m.b(F.silu(m.a(u + (shifted - u) * m.vector)))


def _heads(m: Branch, u: Tensor, _: Tensor) -> Tensor:
    split = lambda t: t.view(BATCH, TOKENS, 2, -1).transpose(1, 2)
    out = F.scaled_dot_product_attention(split(m.a(u)), split(m.b(u)), split(m.c(u)))
    return m.d(out.transpose(1, 2).reshape(BATCH, TOKENS, -1))


def _convnext(m: Branch, u: Tensor, _: Tensor) -> Tensor:
    h = m.a(u).permute(0, 2, 3, 1)
    return m.linear(F.gelu(m.norm(h))).permute(0, 3, 1, 2)


Compute = Callable[[Branch, Tensor, Tensor], Tensor]

BOTH: dict[str, Compute] = {
    "mlp": lambda m, u, _: m.b(F.silu(m.a(u))),
    "single": lambda m, u, _: m.a(u),
    "tanh_gelu": lambda m, u, _: m.b(tanh_gelu(m.a(u))),
    "snake": lambda m, u, _: m.b(snake(m.a(u), m.vector)),
    "lora": lambda m, u, _: m.a(u) + 0.5 * m.c(m.b(u)),
    "two_branches": lambda m, u, _: m.b(F.silu(m.a(u))) + m.d(torch.tanh(m.c(u))),
    "gated_unit": lambda m, u, _: m.c(m.a(u) * torch.sigmoid(m.b(u))),
    "squeeze_excite": _gated,
    "mixture": _mixture,
    "dense": lambda m, u, _: m.wide(torch.cat((u, m.a(u)), dim=m.family.axis)),
    "eps": lambda m, u, _: m.b(m.a(u) / (m.c(u).abs().mean(m.family.axis, keepdim=True) + 1e-3)),
    "centred": lambda m, u, _: m.a(u - u.mean(m.family.axis, keepdim=True)),
    "contraction": lambda m, u, _: _contracted(m, u, m.square),
    "summed_weight": lambda m, u, _: _contracted(m, u, m.square + m.low @ (m.high @ m.square)),
    "mixed_without_weight": lambda m, u, _: m.a(torch.fft.fft(u, dim=m.family.mixed_axis).real),
    "dead_add": _with_dead_add,
    "inner_residual": _inner_residual,
}

TOKEN: dict[str, Compute] = {
    "biased_attention": _biased_attention,
    "masked_attention": _masked_attention,
    "rotary_attention": _rotary_attention,
    "cross_attention": _cross_attention,
    "heads": _heads,
    "token_shift": _token_shift,
    "token_mixing": lambda m, u, _: m.bias @ m.a(u * m.vector),  # only the scale says which axis holds the channels
    "conv1d": lambda m, u, _: m.conv(u.transpose(1, 2)).transpose(1, 2),
    "causal": lambda m, u, _: m.padded(u.transpose(1, 2))[:, :, :-2].transpose(1, 2),
    "recurrent": lambda m, u, _: m.gru(u)[0],
}

IMAGES: dict[str, Compute] = {
    "resnet": lambda m, u, _: m.bn(m.b(F.relu(m.a(u)))),
    "convnext": _convnext,
    "response_norm": lambda m, u, _: m.a(F.local_response_norm(u, 3)),
    "weight_on_the_left": lambda m, u, _: (m.square @ u.flatten(2)).view(u.shape),
    "repvgg": lambda m, u, _: m.c(F.silu(m.a(u) + m.one(u) + m.bn(u))),
}

FREE_SITES = {"inner_residual": 1}
"""Sites of a branch that nothing is added around."""
