"""Dynamo's graphs as the passes read them, and back.

Dynamo hands over a graph without an owner: parameters and buffers are inputs. The passes want them as attributes under
the names they have in the model. New parameters go the other way: they become inputs behind those of Dynamo.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import torch
from torch import fx, nn
from torch.utils.checkpoint import checkpoint

from mhc_compile import _torch_compat as compat
from mhc_compile.capture.graph_module import copy_graph_module, name_modules
from mhc_compile.capture.spelling import check_names
from mhc_compile.dynamo.state_names import name_state
from mhc_compile.passes.graph.checkpointed import CONTEXT_FN
from mhc_compile.twin.hyper_connections import CHILD

_HANDED_ON = ("compile_subgraph_reason", "_param_name_to_source", "_source_to_user_stacks", "_backend_id")
"""Attributes of Dynamo's graph modules that inner backends look for."""


@dataclass(frozen=True)
class OpenGraph:
    """A copy of Dynamo's graph for the passes.

    Attributes:
        original: what Dynamo handed over; never changed.
        gm: the copy, in which the state of the model is attributes. Its placeholders are those of `original`.
        inputs: attribute -> the placeholder it stands for.
        foreign: see `StateNames`, as for the rest.
        tied: see there.
        parameters: see there.
        roots: see there.
    """

    original: fx.GraphModule
    gm: fx.GraphModule
    inputs: Mapping[str, fx.Node]
    foreign: tuple[str, ...]
    tied: frozenset[str]
    parameters: frozenset[str]
    roots: tuple[str, ...]

    def positions(self, attributes: Iterable[str]) -> tuple[int, ...]:
        """Which inputs hold these attributes."""
        order = {node: i for i, node in enumerate(self.gm.graph.find_nodes(op="placeholder"))}
        return tuple(order[self.inputs[name]] for name in attributes if name in self.inputs)


def open_graph(original: fx.GraphModule, values: Sequence[Any], model: nn.Module) -> OpenGraph:
    """Copy a graph of Dynamo's and name the parameters, buffers and modules in it as `model` does.

    Args:
        original: a graph that Dynamo handed to a backend.
        values: its inputs. Other ones than it was traced with name it for another module of the same class.
        model: whose names to use.

    Raises:
        KeywordNameError: a name cannot be that of an attribute in code.
    """
    gm = copy_graph_module(original)
    for old, new in zip(original.graph.nodes, gm.graph.nodes, strict=True):
        if hasattr(old, "_dynamo_source"):
            new._dynamo_source = old._dynamo_source
    name_modules(gm, model)
    placeholders = gm.graph.find_nodes(op="placeholder")
    found = name_state(placeholders, values, model)
    inputs = {name: node for node, name in found.names.items()}
    check_names(inputs)
    for node, value in zip(placeholders, values, strict=True):
        if node in found.names:
            name = found.names[node]
            _assign(gm, name, _as_parameter(value) if name in found.parameters else value)
    for name, node in inputs.items():
        with gm.graph.inserting_after(placeholders[-1]):
            state = gm.graph.create_node("get_attr", name)
        state.meta.update({k: v for k, v in node.meta.items() if k == "example_value"})
        node.replace_all_uses_with(state)
    return OpenGraph(original, gm, inputs, found.foreign, found.tied, found.parameters, found.roots)


def close_graph(opened: OpenGraph) -> tuple[fx.GraphModule, list[str]]:
    """The rewritten graph as Dynamo's inner backends expect it.

    Returns:
        A module without state of its own, and the names (under `hyper_connections`) of the parameters that it takes
        behind the inputs of Dynamo's graph.
    """
    graph = opened.gm.graph
    _close_checkpoints(opened.gm)
    added: dict[str, fx.Node] = {}
    for node in graph.find_nodes(op="get_attr"):
        target = str(node.target)
        if target.startswith(f"{CHILD}.") and target not in added:
            added[target] = _append_placeholder(graph, target)
        given = opened.inputs.get(target, added.get(target))
        if given is not None:
            node.replace_all_uses_with(given)
            graph.erase_node(node)
    return _without_state(opened), [target.removeprefix(f"{CHILD}.") for target in added]


def describe_added(closed: fx.GraphModule, parameters: Sequence[nn.Parameter], inputs: Sequence[Any]) -> list[Any]:
    """Example values of the added inputs: real where those of Dynamo's `inputs` are, for inner backends that run them.

    What AOTAutograd will trace with is made here, of fixed shape: by itself it would make sizes symbols.
    """
    context = compat.TracingContext.try_get()
    mode = None if context is None else context.fake_mode
    fakes = [p if mode is None else mode.from_tensor(p, static_shapes=True) for p in parameters]
    placeholders = closed.graph.find_nodes(op="placeholder")
    for node, fake in zip(placeholders[len(placeholders) - len(fakes) :], fakes, strict=True):
        node.meta["example_value"] = fake
    return fakes if any(isinstance(value, compat.FakeTensor) for value in inputs) else list(parameters)


def _append_placeholder(graph: fx.Graph, target: str) -> fx.Node:
    """A further input, which no guard watches: its address is fixed, which CUDA graphs want to know."""
    placeholders = graph.find_nodes(op="placeholder")
    with graph.inserting_after(placeholders[-1]) if placeholders else graph.inserting_before(next(iter(graph.nodes))):
        node = graph.placeholder(target.replace(".", "_"))
    node._dynamo_source = None
    node.meta["tensor_dict"] = {"_dynamo_static_input_type": "unguarded"}
    return node


def _close_checkpoints(gm: fx.GraphModule) -> None:
    """Checkpointed calls as Dynamo writes them, so that AOTAutograd keeps their recomputation."""
    for node in gm.graph.find_nodes(op="call_function", target=checkpoint):
        body, policy = node.args[0], node.kwargs.get("context_fn")
        node.kwargs = {key: value for key, value in node.kwargs.items() if key != "context_fn"}
        node.target = compat.tag_activation_checkpoint
        if isinstance(policy, fx.Node) and isinstance(body, fx.Node):
            _attribute(gm, str(body.target)).meta[CONTEXT_FN] = _attribute(gm, str(policy.target))
            gm.graph.erase_node(policy)


def _without_state(opened: OpenGraph) -> fx.GraphModule:
    """A fresh module around the graph: AOTAutograd would take the parameters of `opened.gm` for further inputs."""
    kept = {str(n.target) for n in opened.gm.graph.nodes if n.op in ("get_attr", "call_module")}
    root = {target: _attribute(opened.gm, target) for target in kept}
    closed = fx.GraphModule(root, opened.gm.graph, type(opened.original).__name__)
    closed.meta = dict(opened.original.meta)
    for name in _HANDED_ON:
        if hasattr(opened.original, name):
            vars(closed)[name] = getattr(opened.original, name)
    return closed


def _as_parameter(value: Any) -> Any:
    """`torch.func.functional_call` puts plain tensors in the places of parameters, which they stand for."""
    plain = type(value) is torch.Tensor and (value.is_floating_point() or value.is_complex())
    return nn.Parameter(value.detach(), requires_grad=value.requires_grad) if plain else value


def _assign(gm: fx.GraphModule, name: str, value: Any) -> None:
    path, _, attribute = name.rpartition(".")
    if path and not isinstance(_attribute(gm, path), nn.Module):
        gm.add_submodule(path, nn.Module())
    setattr(gm.get_submodule(path), attribute, value)


def _attribute(root: Any, target: str) -> Any:
    for part in target.split("."):
        root = getattr(root, part, None)
    return root
