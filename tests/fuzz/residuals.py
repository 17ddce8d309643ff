"""Every way to write a residual add that is a site: one site per kind, whatever the branch."""

from __future__ import annotations

from collections.abc import Callable

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from tests.fuzz.branches import Branch
from tests.fuzz.families import BATCH, SIDE, TOKENS, Family

Function = Callable[[Tensor], Tensor]


class Residual(nn.Module):
    """`x` combined with branches `f` and `g` in the way `kind`."""

    def __init__(self, kind: str, branch: str, family: Family) -> None:
        super().__init__()
        self.kind, self.family = kind, family
        self.combine = {**BOTH, **(IMAGES if family.images else TOKEN)}.get(kind, BOTH["plain"])
        self.f = Branch(branch, family)
        self.g = Branch("mlp", family) if kind.startswith("parallel") else nn.Identity()
        self.norm, self.bn = family.norm(), nn.BatchNorm2d(family.channels)
        self.gamma = family.vector()
        self.linear = nn.Linear(family.channels, family.channels)
        self.conv = nn.Conv1d(family.channels, family.channels, 1)
        self.drop = nn.Dropout(0.1)
        self.pool = nn.AvgPool2d(3, 1, 1)

    def forward(self, x: Tensor, memory: Tensor, position: Tensor) -> Tensor:
        """`x`, `position` and the result have the shape of the stream."""
        if self.kind == "position_in_branch":
            return x + self.f(x + position, memory)
        return self.combine(self, x, lambda u: self.f(u, memory), lambda u: self.g(u, memory))


def _onto_fresh(m: Residual, x: Tensor, f: Function, g: Function) -> Tensor:
    y = f(m.norm(x))
    y.add_(x)
    return y


def _onto_fresh_operator(m: Residual, x: Tensor, f: Function, g: Function) -> Tensor:
    y = f(m.norm(x))
    y += x
    return y


def _scaled_in_place(m: Residual, x: Tensor, f: Function, g: Function) -> Tensor:
    return x + f(m.norm(x)).mul_(0.5)


def _wide_residual(m: Residual, x: Tensor, f: Function, g: Function) -> Tensor:
    wide = x.double()
    return (wide + f(m.norm(wide.to(x.dtype))).double()).to(x.dtype)


def _parallel(m: Residual, x: Tensor, f: Function, g: Function) -> tuple[Tensor, Tensor]:
    u = m.norm(x)
    return f(u), g(u)


def _left(m: Residual, x: Tensor, f: Function, g: Function) -> Tensor:
    a, b = _parallel(m, x, f, g)
    return x + a + b


def _right(m: Residual, x: Tensor, f: Function, g: Function) -> Tensor:
    a, b = _parallel(m, x, f, g)
    return x + (a + b)


def _last(m: Residual, x: Tensor, f: Function, g: Function) -> Tensor:
    a, b = _parallel(m, x, f, g)
    return a + b + x


def _middle(m: Residual, x: Tensor, f: Function, g: Function) -> Tensor:
    a, b = _parallel(m, x, f, g)
    return a + (x + b)


def _two_norms(m: Residual, x: Tensor, f: Function, g: Function) -> Tensor:
    return x + f(m.norm(x)) - 0.5 * g(m.family.rms_norm(x, m.gamma))


def _in_two_dimensions(m: Residual, x: Tensor, f: Function, g: Function) -> Tensor:
    rows = x.reshape(-1, m.family.channels)
    rows = rows + m.linear(F.silu(rows))
    return rows.view(BATCH, TOKENS, m.family.channels)


def _channels_first(m: Residual, x: Tensor, f: Function, g: Function) -> Tensor:
    h = x.transpose(1, 2)
    return (h + F.silu(m.conv(h))).transpose(1, 2)


def _time_major(m: Residual, x: Tensor, f: Function, g: Function) -> Tensor:
    h = x.permute(1, 0, 2)
    return (h + m.linear(m.norm(h))).permute(1, 0, 2)


def _added_in_two_dimensions(m: Residual, x: Tensor, f: Function, g: Function) -> Tensor:
    """The branch reads the 3-D value, the add is 2-D."""
    width = m.family.channels
    return (x.reshape(-1, width) + f(m.norm(x)).reshape(-1, width)).view(BATCH, TOKENS, width)


def _through_tokens(m: Residual, x: Tensor, f: Function, g: Function) -> Tensor:
    h = x.flatten(2).transpose(1, 2)
    h = h + m.linear(F.silu(h))
    return h.transpose(1, 2).reshape(BATCH, m.family.channels, SIDE, SIDE)


def _cut(m: Residual, x: Tensor, f: Function, g: Function) -> Tensor:
    """What is left of the skip is a part of every stream."""
    axis = m.family.mixed_axis
    size = x.shape[axis]
    h = x.narrow(axis, 1, size - 1) + f(x).narrow(axis, 1, size - 1)
    return torch.cat((h, h.narrow(axis, 0, 1)), dim=axis)


def _cut_by_index(m: Residual, x: Tensor, f: Function, g: Function) -> Tensor:
    if m.family.images:
        h = x[:, :, 1:] + f(x)[:, :, 1:]
        return torch.cat((h, h[:, :, :1]), dim=2)
    h = x[:, 1:] + f(x)[:, 1:]
    return torch.cat((h, h[:, :1]), dim=1)


def _cropped(m: Residual, x: Tensor, f: Function, g: Function) -> Tensor:
    """A branch that computes more positions than it returns."""
    return x + m.linear(m.norm(torch.cat((x, x[:, :1]), dim=1)))[:, : x.shape[1]]


def _at_every_position(m: Residual, x: Tensor, f: Function, g: Function) -> Tensor:
    return x.index_add(0, torch.arange(BATCH), f(m.norm(x)))


def _scattered(m: Residual, x: Tensor, f: Function, g: Function) -> Tensor:
    y = f(m.norm(x))
    return x.scatter_add(0, torch.arange(BATCH).view(m.family.of_samples).expand(m.family.shape), y)


def _with_mixer(m: Residual, x: Tensor, f: Function, g: Function) -> Tensor:
    """FNet: a branch without a weight beside one that has some."""
    x = m.norm(x + torch.fft.fft(x, dim=m.family.mixed_axis).real)
    return m.norm(x + f(x))


def _after_slice(m: Residual, x: Tensor, f: Function, g: Function) -> Tensor:
    """A part of the stream goes on as the stream."""
    h = x[:, 1:]
    h = h + m.linear(m.norm(h))
    return torch.cat((h, h[:, :1]), dim=1)


def _pooled(m: Residual, x: Tensor, f: Function, g: Function) -> Tensor:
    u = m.norm(x)
    return x + m.gamma * (m.pool(u) - u)


Combine = Callable[[Residual, Tensor, Function, Function], Tensor]

BOTH: dict[str, Combine] = {
    "plain": lambda m, x, f, g: x + f(x),
    "pre_norm": lambda m, x, f, g: x + f(m.norm(x)),
    "branch_first": lambda m, x, f, g: f(m.norm(x)) + x,
    "pre_rms_norm": lambda m, x, f, g: x + f(m.family.rms_norm(x, m.gamma)),
    "post_norm": lambda m, x, f, g: m.norm(x + f(x)),
    "post_rms_norm": lambda m, x, f, g: m.family.rms_norm(x + f(x), m.gamma),
    "branch_norm": lambda m, x, f, g: x + m.norm(f(x)),
    "post_relu": lambda m, x, f, g: F.relu(x + f(x)),
    "post_relu_in_place": lambda m, x, f, g: F.relu(x + f(x), inplace=True),
    "post_relu_method": lambda m, x, f, g: (x + f(x)).relu_(),
    "parallel_left": _left,
    "parallel_right": _right,
    "parallel_last": _last,
    "parallel_middle": _middle,
    "parallel_two_norms": _two_norms,
    "scaled_skip": lambda m, x, f, g: x * 0.8 + f(x),
    "vector_skip": lambda m, x, f, g: m.gamma * x + f(x),
    "scaled_branch": lambda m, x, f, g: x + 0.5 * f(m.norm(x)),
    "both_scaled": lambda m, x, f, g: 2.0 * x + 1.0 * f(x),
    "divided": lambda m, x, f, g: (x + f(x)) / 1.5,
    "layer_scale": lambda m, x, f, g: x + m.gamma * f(m.norm(x)),
    "onto_fresh": _onto_fresh,
    "onto_fresh_operator": _onto_fresh_operator,
    "onto_skip": lambda m, x, f, g: x.add_(f(m.norm(x))),
    "scaled_in_place": _scaled_in_place,
    "alpha": lambda m, x, f, g: torch.add(x, f(m.norm(x)), alpha=0.5),
    "subtracted": lambda m, x, f, g: x - f(m.norm(x)),
    "subtracted_alpha": lambda m, x, f, g: torch.sub(x, f(m.norm(x)), alpha=0.5),
    "addcmul": lambda m, x, f, g: torch.addcmul(x, f(m.norm(x)), m.gamma),
    "wide_residual": _wide_residual,
    "dropout": lambda m, x, f, g: x + m.drop(f(m.norm(x))),
    "lerp": lambda m, x, f, g: torch.lerp(x, f(m.norm(x)), 0.4),
    "learned_lerp": lambda m, x, f, g: x.lerp(f(m.norm(x)), m.gamma),
    "stacked": lambda m, x, f, g: torch.stack((x, f(m.norm(x))), 1).sum(1),
    "averaged": lambda m, x, f, g: torch.stack((f(m.norm(x)), x)).mean(0),
    "addcdiv": lambda m, x, f, g: torch.addcdiv(x, f(m.norm(x)), m.gamma, value=0.5),
    "at_every_position": _at_every_position,
    "scattered": _scattered,
    "with_mixer": _with_mixer,
    "cut": _cut,
    "cut_by_index": _cut_by_index,
    "post_dropout": lambda m, x, f, g: m.drop(x + f(x)),
}

TOKEN: dict[str, Combine] = {
    "in_two_dimensions": _in_two_dimensions,
    "added_in_two_dimensions": _added_in_two_dimensions,
    "channels_first": _channels_first,
    "time_major": _time_major,
    "cropped": _cropped,
    "after_slice": _after_slice,
}

IMAGES: dict[str, Combine] = {
    "through_tokens": _through_tokens,
    "pooled": _pooled,
    "post_batch_norm": lambda m, x, f, g: m.bn(x + f(x)),
}

WITH_POSITION = "position_in_branch"
"""A kind that adds a position embedding to what its branch reads, in every layer again."""

OWN_BRANCH = frozenset({"in_two_dimensions", "channels_first", "time_major", "through_tokens", "after_slice", "pooled",
                        "cropped"})  # fmt: skip
"""Kinds that bring their own branch and use no drawn one."""

SITES = {"with_mixer": 2}
"""Kinds that are more than one site."""

ENDS_CHAIN = frozenset({"post_batch_norm"})
"""Kinds that no stream can leave by liftable ops alone."""
