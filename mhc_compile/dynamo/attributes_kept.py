"""A call of a model that leaves nothing in its attributes: counters, histories, caches that its own code fills."""

from __future__ import annotations

from collections import Counter, OrderedDict, defaultdict, deque
from collections.abc import Iterable, Iterator
from contextlib import contextmanager
from typing import Any

from torch import nn

_CONTAINERS = (list, dict, set, deque, OrderedDict, defaultdict, Counter)
"""Classes whose objects can be filled again; others may be anything, so they are left as they are."""

_OF_PYTORCH = frozenset(vars(nn.Module()))
"""Modules, parameters, buffers, hooks and flags, which others look after."""


@contextmanager
def attributes_kept(model: nn.Module) -> Iterator[None]:
    """Attributes of modules are afterwards as they were: the same objects, and containers with the same objects."""
    before = [(vars(module), _own(module)) for module in model.modules()]
    contents: dict[int, tuple[Any, Any]] = {}
    for _, attributes in before:
        _note(attributes.values(), contents)
    try:
        yield
    finally:
        for now, attributes in before:
            for name in now.keys() - attributes.keys() - _OF_PYTORCH:
                del now[name]
            now.update(attributes)
        for container, content in contents.values():
            container.clear()
            (container.extend if isinstance(container, (list, deque)) else container.update)(content)


def _own(module: nn.Module) -> dict[str, Any]:
    return {name: value for name, value in vars(module).items() if name not in _OF_PYTORCH}


def _note(values: Iterable[Any], contents: dict[int, tuple[Any, Any]]) -> None:
    """What is in the containers among some values, and in those inside of them."""
    for value in values:
        if type(value) in _CONTAINERS and id(value) not in contents:
            contents[id(value)] = (value, value.copy())
            _note(value.values() if isinstance(value, dict) else value, contents)
