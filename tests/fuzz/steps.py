"""Everything between residual adds: look-alikes that are no sites, ops that streams pass, ops that end a chain."""

from __future__ import annotations

from collections.abc import Callable

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from tests.fuzz.branches import Branch, snake, tanh_gelu
from tests.fuzz.families import Family

Function = Callable[[Tensor], Tensor]


class Step(nn.Module):
    """One step of kind `kind` on the stream; `f` is its branch, where it has one."""

    def __init__(self, kind: str, branch: str, family: Family) -> None:
        super().__init__()
        self.compute, self.family = {**PASS, **MAYBE, **END}[kind], family
        self.f = Branch(branch, family) if kind in USES_BRANCH else nn.Identity()
        self.g = Branch("mlp", family) if kind == "independent_sum" else nn.Identity()
        self.norm, self.gamma = family.norm(), family.vector()
        self.a, self.b, self.wide = family.mix(), family.mix(), family.mix(before=2)
        self.drop = nn.Dropout(0.1)
        self.position = nn.Parameter(torch.randn(family.shape[1:]))
        self.full_position = nn.Parameter(torch.randn(family.shape))

    def forward(self, x: Tensor, memory: Tensor, mask: Tensor, position: Tensor) -> Tensor:
        """`position` has the shape of the stream and is computed from parameters alone, `mask` broadcasts to it."""
        return self.compute(self, x, lambda u: self.f(u, memory), mask, position)


def _dead(m: Step, x: Tensor, f: Function, mask: Tensor, position: Tensor) -> Tensor:
    _ = x + f(x)
    return x


def _position_pair(m: Step, x: Tensor, f: Function, mask: Tensor, position: Tensor) -> Tensor:
    """Added twice: an embedding added again and again (a single one could be a learned query)."""
    return (x + position) * 0.9 + position


def _padded_and_cut(m: Step, x: Tensor, f: Function, mask: Tensor, position: Tensor) -> Tensor:
    first = m.family.mixed_axis
    return F.pad(x, (0, 0, 1, 0)).narrow(-2, 1, x.shape[-2]) if first else x


def _gate(m: Step, x: Tensor, f: Function, mask: Tensor, position: Tensor) -> Tensor:
    return x * torch.sigmoid(m.a(x.mean(m.family.mixed_axis, keepdim=True)))


def _merge(m: Step, x: Tensor, f: Function, mask: Tensor, position: Tensor) -> Tensor:
    """One or the other by a mask."""
    chosen = (mask > 1).to(x.dtype)
    return chosen * m.a(x) + (1 - chosen) * x


def _own_streams(m: Step, x: Tensor, f: Function, mask: Tensor, position: Tensor) -> Tensor:
    """Hyper-connections that the model brings along."""
    axis = m.family.axis
    streams = torch.cat((x.unsqueeze(1), 0.5 * x.unsqueeze(1)), 1)
    for mix in (m.a, m.b):
        post = torch.sigmoid(mix(streams.mean(1))).narrow(axis, 0, 2).movedim(axis, 1).unsqueeze(axis + 1)
        streams = streams + post * mix(streams.sum(1)).unsqueeze(1)
    return streams.mean(1)


def _drawn_for_samples(m: Step, mask: Tensor) -> Tensor:
    """Zero would do: then, by chance, no gradient reaches what lies in front of it in one of the steps."""
    return mask.new_empty(m.family.of_samples).bernoulli_(0.5).clamp(min=0.1)


Compute = Callable[[Step, Tensor, Function, Tensor, Tensor], Tensor]

PASS: dict[str, Compute] = {
    "norm": lambda m, x, f, mask, pos: m.norm(x),
    "rms_norm": lambda m, x, f, mask, pos: m.family.rms_norm(x, m.gamma),
    "activation": lambda m, x, f, mask, pos: F.silu(x),
    "scale": lambda m, x, f, mask, pos: x * 0.7,
    "vector": lambda m, x, f, mask, pos: x * m.gamma,
    "mask": lambda m, x, f, mask, pos: x * mask,
    "clone": lambda m, x, f, mask, pos: x.clone(),
    "cast": lambda m, x, f, mask, pos: x.double().to(x.dtype),
    "dropout": lambda m, x, f, mask, pos: m.drop(x),
    "viewed mask": lambda m, x, f, mask, pos: x * mask.flatten().view(mask.shape),
    "looked up": lambda m, x, f, mask, pos: x * m.full_position[0],
    "choice": lambda m, x, f, mask, pos: torch.where(mask > 1, x, 0.5 * x),
    "softmax": lambda m, x, f, mask, pos: torch.softmax(x, m.family.axis),
    "running mean": lambda m, x, f, mask, pos: x.cumsum(m.family.mixed_axis) / 3,
    "turned round": lambda m, x, f, mask, pos: x.flip(m.family.mixed_axis).roll(1, -1),
    "standardised": lambda m, x, f, mask, pos: (
        (x - x.mean(m.family.axis, True)) / (x.std(m.family.axis, keepdim=True) + 1)
    ),
    "unit length": lambda m, x, f, mask, pos: F.normalize(x, dim=m.family.axis),
    "padded and cut": _padded_and_cut,
    "noise": lambda m, x, f, mask, pos: x + 0.1 * torch.randn_like(x, memory_format=torch.contiguous_format),
    "dropped samples": lambda m, x, f, mask, pos: x * _drawn_for_samples(m, mask),
    "dropped tokens": lambda m, x, f, mask, pos: (F.dropout2d if m.family.images else F.dropout1d)(x, 0.3),
}
"""Liftable: a chain goes on. No sites; `f` is not used."""

MAYBE: dict[str, Compute] = {
    "position_once": lambda m, x, f, mask, pos: x + m.position,
    "full_position_once": lambda m, x, f, mask, pos: x + m.full_position,
    "position_pair": _position_pair,
    "shift": lambda m, x, f, mask, pos: x + 0.1,
    "snake": lambda m, x, f, mask, pos: snake(x, m.gamma),
    "tanh_gelu": lambda m, x, f, mask, pos: tanh_gelu(x),
    "mean_and_eps": lambda m, x, f, mask, pos: x / (x.abs().mean(m.family.axis, keepdim=True) + 1e-3),
    "difference": lambda m, x, f, mask, pos: x - 0.5 * x.roll(1, m.family.mixed_axis),
    "dead": _dead,
}
"""No sites, and nothing is said about whether the chain goes on."""

END: dict[str, Compute] = {
    "mix": lambda m, x, f, mask, pos: m.a(x),
    "projected_shortcut": lambda m, x, f, mask, pos: m.a(x) + f(x),
    "normed_projection": lambda m, x, f, mask, pos: F.relu(m.norm(m.a(x)) + f(x)),
    "independent_sum": lambda m, x, f, mask, pos: f(x) + m.g(x, x),
    "negated_skip": lambda m, x, f, mask, pos: f(m.norm(x)) - x,
    "dense_concat": lambda m, x, f, mask, pos: m.wide(torch.cat((x, f(x)), dim=m.family.axis)),
    "lora": lambda m, x, f, mask, pos: m.a(x) + 0.5 * m.b(f(x)),
    "gate": _gate,
    "merge": _merge,
    "own_streams": _own_streams,
}
"""No sites of their own, and no stream passes."""

USES_BRANCH = frozenset({"dead", "projected_shortcut", "normed_projection", "independent_sum", "negated_skip",
                         "dense_concat", "lora"})  # fmt: skip
"""Kinds with a drawn branch; only live ones keep the free sites of that branch."""
