"""A second `GraphModule` over the modules and parameters of a first, and the modules that its nodes come from."""

from __future__ import annotations

import copy
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


def name_modules(gm: fx.GraphModule, model: nn.Module) -> None:
    """Note, beside the nodes of a graph, modules by their first names in `model`.

    Dynamo names them by the way that the code took: from the submodule on that it is in behind a graph break, through
    `__dict__` in a module with a `__getattr__` of its own, or by a second name.
    """
    paths: dict[str, str] = {}
    for name, module in model.named_modules():
        paths[str(id(module))] = name
    for node in gm.graph.nodes:
        stack = node.meta.get("nn_module_stack")
        if stack:
            node.meta["nn_module_stack"] = {
                key: (paths.get(key.partition("@")[0], path), kind) for key, (path, kind) in stack.items()
            }
