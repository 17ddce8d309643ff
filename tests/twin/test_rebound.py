from __future__ import annotations

import functools
import types
import weakref
from collections.abc import Callable
from typing import Any

import pytest
import torch
from torch import nn

from mhc_compile.twin.module_tree import second_tree, shallow


class Child(nn.Module):
    def forward(self, x: Any) -> Any:
        return x


class Root(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.child, self.gain = Child(), 1.0

    def times(self, x: float) -> float:
        return x * self.gain


def twin_of(root: nn.Module) -> Any:
    second = object.__new__(type(root))
    vars(second).update(shallow(root))
    second_tree(root, second, lambda module: (type(module), shallow(module)))
    return second


WAYS: dict[str, Callable[[Any], Any]] = {
    "list": lambda root: [1, root],
    "tuple in a dict": lambda root: {"a": (root, "b")},
    "weak reference": weakref.ref,
    "method": lambda root: root.times,
    "function around": lambda root: lambda x: root.times(x),
    "partial of a method": lambda root: functools.partial(root.times),
    "keyword of a partial": lambda root: functools.partial(Root.times, self=root),
}


def found_in(value: Any) -> Any:
    """The module that the value is about."""
    if isinstance(value, nn.Module):
        return value
    if isinstance(value, dict):
        return found_in(value["a"])
    if isinstance(value, (list, tuple)):
        return next(found for found in map(found_in, value) if found is not None)
    if isinstance(value, weakref.ref):
        return value()
    if isinstance(value, types.MethodType):
        return value.__self__
    if isinstance(value, functools.partial):
        return value.keywords.get("self") or found_in(value.func)
    return value.__closure__[0].cell_contents if isinstance(value, types.FunctionType) else None


@pytest.mark.parametrize("way", WAYS)
def test_what_a_child_keeps_of_the_module_around_is_of_the_second_tree(way):
    root = Root()
    root.child.kept = WAYS[way](root)
    second = twin_of(root)
    assert found_in(second.child.kept) is second
    assert found_in(root.child.kept) is root


def test_hooks_that_are_methods_of_a_module_are_those_of_its_second():
    class Keeping(Root):
        last = None

        def keep(self, module: nn.Module, args: Any, out: Any) -> None:
            self.last = out

    root = Keeping()
    root.child.register_forward_hook(root.keep)
    second = twin_of(root)
    second.child(torch.ones(1))
    assert second.last is not None and root.last is None


@pytest.mark.parametrize("value", [[1, [2]], {"a": nn.Linear(1, 1)}, lambda x: x, functools.partial(max, 1), ()])
def test_what_is_about_no_module_of_the_tree_is_left_alone(value):
    root = Root()
    root.child.kept = value
    assert twin_of(root).child.kept is value
