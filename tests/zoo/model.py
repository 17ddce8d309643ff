"""How one model of the second zoo is made and called."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from importlib import import_module
from typing import Any

from torch import nn

Inputs = Callable[[], Any]


@dataclass(frozen=True)
class Model:
    """A model that is built from a class or a function and its arguments.

    Attributes:
        path: `package.module:name` of what makes the model.
        inputs: makes the inputs of one call: a tuple of positional ones, or a dict of those with names.
        config: arguments for what `path` names.
        finish: what is left to do with the model once it is made.
    """

    path: str
    inputs: Inputs
    config: Mapping[str, Any] = field(default_factory=dict)
    finish: Callable[[nn.Module], nn.Module] | None = None

    def make(self) -> nn.Module:
        """The model, with weights as it is constructed."""
        made = load(self.path)(**{name: _given(value) for name, value in self.config.items()})
        return made if self.finish is None else self.finish(made)

    def call(self) -> tuple[tuple[Any, ...], dict[str, Any]]:
        """Positional and keyword inputs."""
        inputs = self.inputs()
        return ((), inputs) if isinstance(inputs, dict) else (inputs, {})


@dataclass(frozen=True)
class Part:
    """An argument that is made by a class or a function of a package itself."""

    path: str
    config: Mapping[str, Any] = field(default_factory=dict)


def load(path: str) -> Any:
    """What `package.module:name` names; the package is imported now."""
    module, _, name = path.partition(":")
    found = import_module(module)
    for part in name.split("."):
        found = getattr(found, part)
    return found


def _given(value: Any) -> Any:
    """Arguments that are parts of a package are made when the model is."""
    if not isinstance(value, Part):
        return value
    return load(value.path)(**{name: _given(inner) for name, inner in value.config.items()})
