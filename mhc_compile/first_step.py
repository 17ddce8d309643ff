"""Hyper-connections that no optimizer steps: named at the first step that leaves them out.

Recipes that choose parameters by module or by name (`model.blocks.parameters()`) know nothing of new ones, and neither
does an optimizer that was built before them. Nothing fails then; they only never learn.
"""

from __future__ import annotations

import functools
import re
import warnings
import weakref
from collections.abc import Iterator, Mapping, Sequence
from typing import Protocol

import torch
from torch import nn
from torch.optim.optimizer import register_optimizer_step_post_hook

from mhc_compile.alive import alive
from mhc_compile.errors import UntrainedParametersWarning
from mhc_compile.passes.plan import OWNER
from mhc_compile.wording import count_text, names_text

_BLOCK = re.compile(r"(?:[^.]+\.)*?\d+(?=\.|$)|[^.]+")
"""The first numbered module in a path, `layers.0` of `layers.0.mlp`; where there is none, the outermost."""


class NewParameters(Protocol):
    """What is watched: `mhc_compile.hyper_connections.HyperConnections`, which asks for it."""

    @property
    def identifiers(self) -> Mapping[str, str]:
        """Site key -> what its parameters are called."""

    def named_parameters(self) -> Iterator[tuple[str, nn.Parameter]]:
        """As of any module."""


def watch(child: NewParameters) -> None:
    """Look at each optimizer of this process after its first step, until one is found that leaves `child` out.

    Nothing is kept alive for it. A step that finds nothing to say costs microseconds; where an optimizer does not hold
    all of the new parameters, the garbage collector is asked once for the others.
    """
    _lookout().watched[child] = weakref.WeakSet()


@functools.cache  # hooks on steps are one list for the process, which must not change while it is gone through
def _lookout() -> _Lookout:
    lookout = _Lookout()
    register_optimizer_step_post_hook(lookout)
    return lookout


class _Lookout:
    """What is called after every step of every optimizer.

    Attributes:
        watched: hyper-connections -> the optimizers that were looked at for them.
    """

    def __init__(self) -> None:
        self.watched: weakref.WeakKeyDictionary[NewParameters, weakref.WeakSet[torch.optim.Optimizer]]
        self.watched = weakref.WeakKeyDictionary()

    def __call__(self, optimizer: torch.optim.Optimizer, *_: object) -> None:
        if torch.compiler.is_compiling():
            return
        for child, seen in list(self.watched.items()):
            if optimizer not in seen:
                self._look(child, seen, optimizer)

    def _look(
        self, child: NewParameters, seen: weakref.WeakSet[torch.optim.Optimizer], optimizer: torch.optim.Optimizer
    ) -> None:
        learning = {n: p for n, p in child.named_parameters() if p.requires_grad and p.grad is not None}
        if not learning:  # nobody trains it now
            return
        seen.add(optimizer)
        if not _missed(learning, _held(optimizer)):
            return
        held = _held(*alive(torch.optim.Optimizer))
        missed = _of_trained_layers(child, _missed(learning, held), held)
        if missed:
            del self.watched[child]
            warnings.warn(_message(optimizer, missed), UntrainedParametersWarning, stacklevel=4)


def _held(*optimizers: torch.optim.Optimizer) -> set[int]:
    groups = (group for optimizer in optimizers for group in getattr(optimizer, "param_groups", ()))
    return {id(p) for group in groups for p in group.get("params", ())}


def _missed(learning: Mapping[str, nn.Parameter], held: set[int]) -> list[str]:
    return [name for name, parameter in learning.items() if id(parameter) not in held]


def _of_trained_layers(child: NewParameters, missed: Sequence[str], held: set[int]) -> list[str]:
    """Those whose blocks are trained: under a head on a body that nobody trains, none is missed."""
    trained = _trained(child, held) if missed else []
    keys = {identifier: key for key, identifier in child.identifiers.items()}
    blocks = {name: block_of(keys[name.partition(".")[0]]) for name in missed}
    return [name for name, block in blocks.items() if any(other.startswith(block) for other in trained)]


def block_of(key: str) -> str:
    """How names of parameters in the block of a site begin: `layers.0.`, or "" for a site of the model itself."""
    path = key.partition("#")[0]
    found = _BLOCK.match(path)
    whole = found is None or (found[0] == path and not path.rpartition(".")[2].isdigit())
    return "" if whole or found is None else f"{found[0]}."


def _trained(child: NewParameters, held: set[int]) -> list[str]:
    """Names of the model's own parameters that an optimizer holds."""

    def owns(module: nn.Module) -> bool:
        children = vars(module).get("_modules", {})
        return OWNER in children and child in set(children[OWNER].modules())

    owners = [module for module in alive(nn.Module) if owns(module)]
    return [
        name
        for owner in owners
        for name, parameter in owner.named_parameters()
        if id(parameter) in held and not name.startswith(f"{OWNER}.")
    ]


def _message(optimizer: torch.optim.Optimizer, missed: Sequence[str]) -> str:
    count = count_text(len(missed), "hyper-connection parameter")
    names = names_text([f"hyper_connections.{name}" for name in missed])
    return (
        f"no optimizer steps {count} that got gradients ({names}), while the layers around are trained (first step of "
        f"{type(optimizer).__name__}): write mhc_compile.parameter_groups(model, groups=...) to add what groups have "
        "missed, or model.hyper_connections.requires_grad_(False) if it is meant"
    )
