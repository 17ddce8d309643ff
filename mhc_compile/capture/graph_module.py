"""A second `GraphModule` over the modules and parameters of a first, and the modules that its nodes come from."""

from __future__ import annotations

import copy
from collections.abc import Collection
from typing import Any

from torch import fx, nn


def copy_graph_module(gm: fx.GraphModule) -> fx.GraphModule:
    """A second graph over the same submodules, parameters and attributes, unused ones included."""
    graph = fx.Graph()
    graph.output(graph.graph_copy(gm.graph, {}))
    for old, new in zip(gm.graph.nodes, graph.nodes, strict=True):
        new.meta = copy.copy(old.meta)
    graph._codegen = copy.deepcopy(gm.graph._codegen)
    twin = fx.GraphModule(nn.Module(), fx.Graph(), type(gm).__name__)
    for name, value in vars(gm).items():
        if name.startswith("_forward") or name in (
            "_parameters",
            "_buffers",
            "_modules",
            "_non_persistent_buffers_set",
        ):
            setattr_plain(twin, name, copy.copy(value))
        elif name not in vars(twin):
            setattr_plain(twin, name, value)
    twin.meta = dict(gm.meta)
    twin.training = gm.training
    twin.graph = graph
    return twin


def setattr_plain(module: nn.Module, name: str, value: Any) -> None:
    """Set an attribute past `nn.Module.__setattr__`, which registers what it is given."""
    vars(module)[name] = value


Stack = dict[str, tuple[str, Any]]
"""The calls of modules around a node, from the outermost on: Dynamo's key -> name and class."""


def name_modules(gm: fx.GraphModule, model: nn.Module) -> None:
    """Note, beside the nodes of a graph, modules by their first names in `model`.

    Dynamo names them by the way that the code took: from the submodule on that it is in behind a graph break, through
    `__dict__` in a module with a `__getattr__` of its own, by a second name, or as a `GraphModule` inside noted them.
    """
    names = {str(id(module)): name for name, module in model.named_modules()}
    known, around = set(names.values()), Stack()
    for node in gm.graph.nodes:
        stack: Stack = node.meta.get("nn_module_stack") or {}
        if not stack:
            continue
        named = {k: (names.get(k.partition("@")[0], path), kind) for k, (path, kind) in stack.items()}
        foreign = next(iter(stack)).partition("@")[0] not in names
        node.meta["nn_module_stack"] = _inside(around, named, known) if foreign else named
        around = around if foreign else _up_to_graph_module(named)


def _up_to_graph_module(stack: Stack) -> Stack:
    """The calls around what a `GraphModule` runs; none where there is no such module."""
    kinds = [isinstance(kind, type) and issubclass(kind, fx.GraphModule) for _, kind in stack.values()]
    end = max((i + 1 for i, found in enumerate(kinds) if found), default=0)
    return dict(list(stack.items())[:end])


def _inside(around: Stack, stack: Stack, known: Collection[str]) -> Stack:
    """Calls that are named from a `GraphModule` on, by their names in the model."""
    outer = f"{list(around.values())[-1][0]}." if around else ""
    inner = {key: (outer + path if outer + path in known else path, kind) for key, (path, kind) in stack.items()}
    return {**around, **inner}
