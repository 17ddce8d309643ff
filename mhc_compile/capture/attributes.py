"""Tensors in a captured graph that are neither parameters nor buffers."""

from __future__ import annotations

import re
from collections.abc import Iterable
from typing import Any

import torch
from torch import fx, nn

from mhc_compile import _torch_compat as compat
from mhc_compile.capture.graph_module import setattr_plain
from mhc_compile.capture.guards import GuardRecord
from mhc_compile.capture.places import Place, evaluate, place_of, submodule
from mhc_compile.errors import CaptureError

ATTRIBUTE = re.compile(r"^\.(\w+)$")
"""The way from a module to what it has in an attribute."""


def name_attributes(gm: fx.GraphModule, model: nn.Module, guards: Iterable[GuardRecord]) -> frozenset[tuple[str, str]]:
    """Let a graph read tensors that modules have as attributes when it runs, as it reads buffers.

    Schedules set other ones between calls, and hooks do so at each call: `prune`, the older `weight_norm`.

    Returns:
        Name of the module and way from there, for each. What has two places is not among them: it is a constant.
    """
    found = _places(model, guards)
    named: set[tuple[str, str]] = set()
    for node in gm.graph.find_nodes(op="get_attr"):
        value = _value(gm, str(node.target))
        places = found.get(id(value), ())
        attribute = ATTRIBUTE.match(places[0].tail) if len(places) == 1 else None
        if attribute:
            path = places[0].path
            node.target = f"{path}.{attribute[1]}".lstrip(".")
            setattr_plain(_holder(gm, path), attribute[1], value)
            named.add((path, places[0].tail))
    return frozenset(named)


def _places(model: nn.Module, guards: Iterable[GuardRecord]) -> dict[int, tuple[Place, ...]]:
    """Id of each tensor of the model that was read -> where it is."""
    found: dict[int, tuple[Place, ...]] = {}
    for guard in guards:
        place = place_of(model, guard) if guard.kind == "TENSOR_MATCH" else None
        if place is not None and place.outside is None:
            key = id(evaluate(place.tail)(submodule(model, place.path)))
            if place not in found.get(key, ()):
                found[key] = (*found.get(key, ()), place)
    return found


def _holder(gm: nn.Module, path: str) -> nn.Module:
    """The module of this name in a graph module, which may have none for it yet."""
    for part in path.split(".") if path else ():
        if part not in gm._modules:
            gm.add_module(part, nn.Module())
        gm = gm.get_submodule(part)
    return gm


def check_constants(gm: fx.GraphModule, model: nn.Module) -> None:
    """Refuse a graph with a value that existed only while it was traced, such as what is made of an array of NumPy.

    Raises:
        CaptureError: with what to write instead.
    """
    for target in {str(node.target) for node in gm.graph.find_nodes(op="get_attr")}:
        if isinstance(_value(gm, target), compat.FakeTensor) and _value(model, target) is None:
            raise CaptureError(
                "one graph cannot hold an array of NumPy, or another value that is made while tracing: register it as "
                "a tensor, with model.register_buffer(name, tensor)"
            )


def _value(root: Any, target: str) -> torch.Tensor | None:
    for part in target.split("."):
        root = getattr(root, part, None)
    return root if isinstance(root, torch.Tensor) else None
