"""Let a traced graph follow its inputs to another device: tracing turns `device=x.device` into a constant."""

from __future__ import annotations

from typing import Any

import torch
from torch import fx

from mhc_compile.passes.graph.values import example_of


def follow_inputs(gm: fx.GraphModule) -> None:
    """Replace the device that the inputs were traced on by that of the first tensor input at each call, in place.

    Other devices stay, and so does everything in a graph without tensor inputs.
    """
    inputs = [node for node in gm.graph.nodes if node.op == "placeholder"]
    tensors = [node for node in inputs if example_of(node) is not None]
    if not tensors or not any(_devices(node) for node in gm.graph.nodes):
        return
    traced = _device_of(tensors[0])
    with gm.graph.inserting_after(inputs[-1]):
        device = gm.graph.call_function(getattr, (tensors[0], "device"))
    for node in gm.graph.nodes:
        if traced in _devices(node):
            node.args, node.kwargs = _replace((node.args, node.kwargs), traced, device)
    if not device.users:
        gm.graph.erase_node(device)


def _device_of(node: fx.Node) -> torch.device:
    tensor = example_of(node)
    assert tensor is not None
    return tensor.device


def _devices(node: fx.Node) -> set[torch.device]:
    """Devices among the arguments of a call; they lie next to the operands, or among the keywords."""
    return {value for value in (*node.args, *node.kwargs.values()) if isinstance(value, torch.device)}


def _replace(arguments: tuple[Any, Any], old: torch.device, new: fx.Node) -> tuple[Any, Any]:
    args, kwargs = arguments
    swapped = tuple(new if value == old else value for value in args)
    return swapped, {name: new if value == old else value for name, value in kwargs.items()}
