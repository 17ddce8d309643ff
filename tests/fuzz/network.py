"""The module a drawn description stands for."""

from __future__ import annotations

from collections.abc import Sequence

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from tests.fuzz.branches import Branch
from tests.fuzz.families import Family
from tests.fuzz.residuals import Residual
from tests.fuzz.spec import Collect, Element, Exchange, Long, Network, Op, Recall, Res, UNet
from tests.fuzz.steps import Step

States = list[Tensor]
SideInputs = tuple[Tensor, Tensor, Tensor]
"""Memory, mask and position: what every layer may look at besides the stream."""


class Chain(nn.Module):
    """Elements one after the other."""

    def __init__(self, elements: Sequence[Element], family: Family) -> None:
        super().__init__()
        self.elements = elements
        self.layers = nn.ModuleList(_layer(e, family) for e in elements)
        self.injects, self.left_out = False, -1

    def forward(self, x: Tensor, side: SideInputs, states: States) -> Tensor:
        """Hidden states are appended to `states`."""
        memory, mask, position = side
        first = x
        for i, (element, layer) in enumerate(zip(self.elements, self.layers, strict=True)):
            if i == self.left_out:
                continue
            if self.injects and i:
                x = 0.9 * x + 0.3 * first
            if isinstance(element, Collect):
                states.append(x)
            elif isinstance(element, Recall):
                x = x * states[-1] if states else x
            elif isinstance(element, Exchange):
                x = layer(x)
            elif isinstance(element, Op):
                x = layer(x, memory, mask, position)
            elif isinstance(element, Res):
                for _ in range(element.uses):
                    x = layer(x, memory, position)
            else:
                x = layer(x, side, states)
        return x


class LongSkip(nn.Module):
    """`x + tail(inner(head(x)))`, head and tail where the element has them."""

    def __init__(self, element: Long, family: Family) -> None:
        super().__init__()
        self.element, self.inner = element, Chain(element.inner, family)
        self.head, self.tail = family.mix(), family.mix()

    def forward(self, x: Tensor, side: SideInputs, states: States) -> Tensor:
        """As `Chain.forward`."""
        h = self.inner(self.head(x) if self.element.head else x, side, states)
        return x + (self.tail(h) if self.element.tail else h)


class Level(nn.Module):
    """Down, a chain, and back up by concatenation."""

    def __init__(self, element: UNet, family: Family) -> None:
        super().__init__()
        self.down, self.inner, self.up = family.mix(), Chain(element.inner, family), family.mix(before=2)
        self.axis = family.axis

    def forward(self, x: Tensor, side: SideInputs, states: States) -> Tensor:
        """As `Chain.forward`."""
        return self.up(torch.cat((x, self.inner(self.down(x), side, states)), dim=self.axis))


class Towers(nn.Module):
    """Two towers that read each other and themselves, and are joined."""

    def __init__(self, element: Exchange, family: Family) -> None:
        super().__init__()
        parts = [(family.mix(before=2), family.mix(), family.norm()) for _ in range(2 * element.layers)]
        self.parts = nn.ModuleList(nn.ModuleList(part) for part in parts)
        self.second, self.joined, self.axis = family.mix(), family.mix(before=2), family.axis

    def forward(self, x: Tensor) -> Tensor:
        """`x` has the shape of the stream."""
        own, other = x, self.second(x)
        for wide, mix, norm in self.parts:
            own = norm(own + mix(F.silu(wide(torch.cat((own, other), dim=self.axis)))))
            own, other = other, own
        return self.joined(torch.cat((own, other), dim=self.axis))


class Model(nn.Module):
    """The whole network; takes `x` and `z` of the shape of the stream, and a mask."""

    def __init__(self, net: Network) -> None:
        super().__init__()
        family = Family(net.images, net.channels)
        self.net, self.axis = net, family.axis
        self.stem, self.write = family.mix(), Branch("mlp", family)
        self.position, self.position_mix = nn.Parameter(torch.randn(family.shape)), family.mix()
        self.encoder, self.body = Chain(net.encoder, family), Chain(net.body, family)
        self.body.injects = net.injects
        self.towers = nn.ModuleList(Chain(t, family) for t in net.towers)
        self.heads = nn.ModuleList(family.mix() for _ in range(2))
        self.wide, self.norm, self.head = family.mix(before=2), family.norm(), family.mix()

    def forward(self, x: Tensor, z: Tensor, mask: Tensor) -> tuple[Tensor, ...]:
        """The result, hidden states and the memory."""
        states: States = []
        position = self.position_mix(self.position)
        memory = self.encoder(self.heads[0](z), (z, mask, position), states) if self.net.encoder else z
        side = (memory, mask, position)
        x = self.body(self._start(x, z), side, states)
        results = self._join([tower(x, side, states) for tower in self.towers]) if self.towers else [x]
        if self.net.head:
            results = [self.head(self.norm(r)) for r in results]
        return (*results, *states, *((memory,) if self.net.encoder else ()))

    def _start(self, x: Tensor, z: Tensor) -> Tensor:
        if self.net.start == "written":
            x = self.stem(x.add_(self.write(self.norm(x.clone()), z)))
        return self.stem(x) if self.net.start == "stem" else x

    def _join(self, ends: list[Tensor]) -> list[Tensor]:
        if self.net.join == "cat":
            return [self.wide(torch.cat(ends, dim=self.axis))]
        if self.net.join == "sum":
            return [self.heads[0](ends[0]) + self.heads[1](ends[1])]
        return ends


def _layer(element: Element, family: Family) -> nn.Module:
    if isinstance(element, Res):
        return Residual(element.kind, element.branch, family)
    if isinstance(element, Exchange):
        return Towers(element, family)
    if isinstance(element, Op):
        return Step(element.kind, element.branch, family)
    if isinstance(element, Long):
        return LongSkip(element, family)
    return Level(element, family) if isinstance(element, UNet) else nn.Identity()


def build(net: Network) -> tuple[Model, tuple[Tensor, Tensor, Tensor]]:
    """The model of a description in eval mode and its inputs, all fp64, both determined by the seed."""
    torch.manual_seed(net.seed)
    shape = Family(net.images, net.channels).shape
    mask_shape = (shape[0], 1, *shape[2:]) if net.images else (*shape[:2], 1)
    inputs = (torch.randn(shape), torch.randn(shape), torch.randint(0, 2, mask_shape).float() + 0.5)
    model = Model(net).double().eval()
    return model, (inputs[0].double(), inputs[1].double(), inputs[2].double())
