"""A small residual network with what real ones keep on their modules, and its hyper-connections as a plain formula.

The formula runs the layers of a second, equal network on n streams, one after the other, in eager PyTorch. Nothing is
traced, so nothing can be stale, and no effect can be lost.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from mhc_compile.kernels.formulas import connections
from tests.fuzz.branches import Branch
from tests.fuzz.families import Family
from tests.fuzz.residuals import Residual
from tests.fuzz.steps import Step

BRANCHES = ("mlp", "single", "lora", "gated_unit", "tanh_gelu", "inner_residual")


@dataclass(frozen=True)
class Drawn:
    """A network and how it is transformed.

    Attributes:
        images: layout, see `Family`.
        layers: kinds of its layers, each of `FORMS`, `LIFTED` or "mix", which ends a segment.
        branch: kind of the branches.
        keeps: what each branch keeps at every call, some of `loss`, `count` and `list`.
        connection: of each site.
        n: number of streams.
        seed: of weights and inputs.
    """

    images: bool
    layers: tuple[str, ...]
    branch: str = "mlp"
    keeps: frozenset[str] = frozenset()
    connection: str = "mhc"
    n: int = 4
    seed: int = 0


class Watched(nn.Module):
    """A branch with attributes that are read, and others that are written."""

    def __init__(self, inner: Branch, keeps: frozenset[str]) -> None:
        super().__init__()
        self.inner, self.keeps, self.drop = inner, keeps, nn.Dropout(0.0)
        self.scale, self.doubled = 1.0, False
        self.gain, self.switches, self.around = torch.ones(()), set[str](), list[nn.Module]()
        self.loss, self.count, self.kept = torch.zeros(()), 0, []

    def forward(self, u: Tensor, memory: Tensor) -> Tensor:
        """`memory` is not used."""
        y = self.inner(u, memory) * self.scale
        y = 2 * y if self.doubled else y
        y = self.gain * (-y if "negated" in self.switches else y)
        for module in self.around:
            y = y * module.level
        if "loss" in self.keeps:
            self.loss = y.square().mean()
        if "count" in self.keeps:
            self.count += 1
        if "list" in self.keeps:
            self.kept.append(y.mean())
        return self.drop(y)


class Body(nn.Module):
    """Layers one after the other: a module that holds whole segments."""

    def __init__(self, drawn: Drawn, family: Family) -> None:
        super().__init__()
        self.layers = nn.ModuleList(_layer(kind, drawn, family) for kind in drawn.layers)

    def forward(self, x: Tensor) -> Tensor:
        """`x` has the shape of the stream."""
        for layer in self.layers:
            x = layer(x, x, x) if isinstance(layer, Residual) else layer(x)
        return x


class Lifted(nn.Module):
    """A step between residual adds."""

    def __init__(self, kind: str, family: Family) -> None:
        super().__init__()
        self.kind = kind
        self.step = family.mix() if kind == "mix" else Step(kind, "mlp", family)

    def forward(self, x: Tensor) -> Tensor:
        """`x` has the shape of the stream."""
        return self.step(x) if self.kind == "mix" else self.step(x, x, x, x)


class Called(nn.Module):
    """Stem, body and head."""

    def __init__(self, drawn: Drawn) -> None:
        super().__init__()
        family = Family(drawn.images, 4)
        self.stem, self.body, self.head = family.mix(), Body(drawn, family), family.mix()
        self.level = 1.0
        for branch in watched(self):
            branch.around.append(self)

    def forward(self, x: Tensor) -> Tensor:
        """`x` has the shape of the stream."""
        return self.head(self.body(self.stem(x)))


def _layer(kind: str, drawn: Drawn, family: Family) -> nn.Module:
    if kind not in FORMS:
        return Lifted(kind, family)
    layer = Residual(kind, drawn.branch, family)
    layer.f = Watched(layer.f, drawn.keeps)
    return layer


def build(drawn: Drawn) -> tuple[Called, Tensor]:
    """The network in training mode and an input, both fp64; equal at every call."""
    torch.manual_seed(drawn.seed)
    model = Called(drawn).double().train()
    return model, torch.randn(Family(drawn.images, 4).shape).double()


Part = Callable[[Residual, Tensor], Tensor]


@dataclass(frozen=True)
class Form:
    """A residual add as `after(skip(x) + branch(u))`."""

    branch: Part
    skip: Part = lambda m, x: x
    after: Part = lambda m, x: x


def _f(m: Residual, u: Tensor) -> Tensor:
    return m.f(u, u)


def _pre(m: Residual, u: Tensor) -> Tensor:
    return m.f(m.norm(u), u)


FORMS: Mapping[str, Form] = {
    "plain": Form(_f),
    "pre_norm": Form(_pre),
    "pre_rms_norm": Form(lambda m, u: _f(m, m.family.rms_norm(u, m.gamma))),
    "post_norm": Form(_f, after=lambda m, x: m.norm(x)),
    "branch_norm": Form(lambda m, u: m.norm(_f(m, u))),
    "post_relu": Form(_f, after=lambda m, x: F.relu(x)),
    "scaled_skip": Form(_f, skip=lambda m, x: x * 0.8),
    "vector_skip": Form(_f, skip=lambda m, x: m.gamma * x),
    "scaled_branch": Form(lambda m, u: 0.5 * _pre(m, u)),
    "divided": Form(_f, after=lambda m, x: x / 1.5),
    "layer_scale": Form(lambda m, u: m.gamma * _pre(m, u)),
    "subtracted": Form(lambda m, u: -_pre(m, u)),
}
"""Kinds of `residuals.BOTH` in parts."""

LIFTED = ("norm", "activation", "scale", "vector", "clone")
"""Kinds of `steps.PASS` that every stream goes through by itself."""


class Streams:
    """Runs parts of a `Called` with hyper-connections."""

    def __init__(self, drawn: Drawn, sites: Mapping[int, nn.Module]) -> None:
        """Args: what was drawn, and index of each residual layer -> the parameters of its site."""
        self.drawn, self.sites, self.axis = drawn, sites, Family(drawn.images, 4).axis

    def model(self, model: Called, x: Tensor) -> Tensor:
        """What the model computes."""
        return model.head(self.body(model.body, model.stem(x)))

    def body(self, body: Body, x: Tensor) -> Tensor:
        """What its body computes: streams from the input to each `mix`, and to the end."""
        X = self._expand(x)
        for index, layer in enumerate(body.layers):
            if isinstance(layer, Residual):
                X = self._site(index, layer, X, is_last=self._is_last(index))
            elif layer.kind == "mix":
                X = self._expand(layer(X.mean(0)))
            else:
                X = torch.stack([layer(stream) for stream in X])
        return X.mean(0)

    def layer(self, body: Body, index: int, x: Tensor) -> Tensor:
        """What one residual layer computes by itself: its streams begin and end at its border."""
        return self._site(index, body.layers[index], self._expand(x), is_last=True).mean(0)

    def _is_last(self, index: int) -> bool:
        """Whether no site follows before the streams end: what comes behind is applied to their mean."""
        following = self.drawn.layers[index + 1 :]
        end = following.index("mix") if "mix" in following else len(following)
        return not any(kind in FORMS for kind in following[:end])

    def _expand(self, x: Tensor) -> Tensor:
        return x.expand(self.drawn.n, *x.shape)

    def _site(self, index: int, layer: Residual, X: Tensor, *, is_last: bool) -> Tensor:
        form = FORMS[layer.kind]
        pre, post, mixing = self._coefficients(self.sites[index], X)
        y = form.branch(layer, (pre * X).sum(0))
        skip = torch.stack([form.skip(layer, stream) for stream in X])
        written = (mixing * skip).sum(1) + post * y
        if is_last:
            written = self._expand(written.mean(0))
        return torch.stack([form.after(layer, stream) for stream in written])

    def _coefficients(self, site: nn.Module, X: Tensor) -> tuple[Tensor, Tensor, Tensor]:
        n, connection = self.drawn.n, self.drawn.connection
        names = connections.parameter_shapes(connection, n, X.shape[self.axis + 1])
        params = [getattr(site, name) for name in names]
        return connections.find(connection, n).coefficients(X, params, n=n, axis=self.axis)


def watched(model: Called) -> Iterator[Watched]:
    """The branches of a model in order."""
    return (module for module in model.modules() if isinstance(module, Watched))
