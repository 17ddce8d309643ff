"""A transformed `nn.Sequential` has one more child than its layers: it counts, iterates and slices without it."""

from __future__ import annotations

from collections import OrderedDict
from collections.abc import Callable, Iterator
from typing import Any

from torch import nn

from mhc_compile.twin.hyper_connections import CHILD

_CHANGING = ("__setitem__", "__delitem__", "append", "extend", "insert", "pop")


def container_methods(original: type[nn.Module]) -> dict[str, Any]:
    """What the class of a transformed model needs besides, where its `original` is a container of layers."""
    if not issubclass(original, nn.Sequential):
        return {}
    changing = {name: _without_child(getattr(original, name)) for name in _CHANGING if hasattr(original, name)}
    return {"__len__": _length, "__iter__": _layers, "__getitem__": _item, **changing}


def _named_layers(self: nn.Module) -> list[tuple[str, nn.Module | None]]:
    return [(name, layer) for name, layer in self._modules.items() if name != CHILD]


def _length(self: nn.Module) -> int:
    return len(_named_layers(self))


def _layers(self: nn.Module) -> Iterator[nn.Module | None]:
    return iter([layer for _, layer in _named_layers(self)])


def _item(self: nn.Module, index: int | slice) -> Any:
    layers = _named_layers(self)
    if isinstance(index, slice):
        return type(self)(OrderedDict(layers[index]))
    return layers[index][1]


def _without_child(method: Callable[..., Any]) -> Callable[..., Any]:
    """A method that changes the layers, called while they are the only children."""

    def call(self: nn.Module, *args: Any, **kwargs: Any) -> Any:
        child = self._modules.pop(CHILD)
        try:
            return method(self, *args, **kwargs)
        finally:
            self._modules[CHILD] = child

    return call
