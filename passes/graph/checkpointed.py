"""Open the bodies of checkpointed blocks for the passes, and close them again with their policy.

Dynamo keeps `torch.utils.checkpoint(block, x)` as a call of a graph of its own. Inlined, its residual adds are found
like any other and streams cross its border; afterwards the same nodes, and what was emitted for them, are recomputed.
"""

from __future__ import annotations

import operator
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

import torch
from torch import fx
from torch.utils.checkpoint import checkpoint

from mhc_compile.passes.graph.values import attribute, flat_nodes

META = "mhc_checkpoint"
"""Key of a node's meta that holds its `Region`."""

CONTEXT_FN = "_checkpoint_context_fn"
"""Key of the meta in which Dynamo keeps the `context_fn` of selective checkpointing."""


@dataclass(frozen=True)
class Region:
    """One checkpointed call: its number in the graph, and the keywords of `torch.utils.checkpoint.checkpoint`."""

    index: int
    keywords: Mapping[str, Any] = field(compare=False, hash=False)


def inline_checkpoints(gm: fx.GraphModule) -> None:
    """Replace every checkpointed call by the nodes of its body, marked with their region."""
    for index, node in enumerate(n for n in list(gm.graph.nodes) if _is_checkpoint(n)):
        keywords = dict(node.kwargs)
        body = attribute(gm, str(node.args[0].target))
        for meta in (node.meta, body.meta):  # where torch 2.13 and 2.14 keep it
            if CONTEXT_FN in meta:
                keywords["context_fn"] = meta[CONTEXT_FN]
        _inline(gm, node, body, Region(index, keywords))


def outline_checkpoints(gm: fx.GraphModule) -> None:
    """Gather the nodes of each region into a body again and call it through `torch.utils.checkpoint`."""
    regions: dict[Region, list[fx.Node]] = {}
    for node in gm.graph.nodes:
        if META in node.meta and node.op != "get_attr":
            regions.setdefault(node.meta[META], []).append(node)
    for region, nodes in regions.items():
        _outline(gm, region, nodes)


def _is_checkpoint(node: fx.Node) -> bool:
    return node.op == "call_function" and getattr(node.target, "__name__", "") == "tag_activation_checkpoint"


def _inline(gm: fx.GraphModule, call: fx.Node, body: fx.GraphModule, region: Region) -> None:
    handle = call.args[0]
    assert isinstance(handle, fx.Node)
    inputs = iter(call.args[1:])
    copies: dict[fx.Node, Any] = {}
    with gm.graph.inserting_before(call):
        for node in body.graph.nodes:
            if node.op == "placeholder":
                copies[node] = next(inputs)
            elif node.op == "get_attr":
                copies[node] = _own_attribute(gm, body, node)
            elif node.op != "output":
                copies[node] = gm.graph.node_copy(node, copies.__getitem__)
                copies[node].meta[META] = region
    results = fx.map_arg(next(iter(reversed(body.graph.nodes))).args[0], copies.__getitem__)
    for user in list(call.users):
        user.replace_all_uses_with(results[user.args[1]])
        gm.graph.erase_node(user)
    gm.graph.erase_node(call)
    if not handle.users:
        gm.graph.erase_node(handle)


def _own_attribute(gm: fx.GraphModule, body: fx.GraphModule, node: fx.Node) -> fx.Node:
    """What a body reads from itself, such as the branches of `torch.cond`, as an attribute of the graph around it."""
    name, value = str(node.target), attribute(body, str(node.target))
    while (taken := attribute(gm, name)) is not None and taken is not value:
        name += "_"
    setattr(gm, name, value)
    copied = gm.graph.create_node("get_attr", name)
    copied.meta = dict(node.meta)
    return copied


def _outline(gm: fx.GraphModule, region: Region, nodes: Sequence[fx.Node]) -> None:
    later = _dependants_within(nodes)
    inputs = list(
        dict.fromkeys(n for node in nodes for n in flat_nodes((node.args, node.kwargs)) if n not in set(nodes))
    )
    outputs = [node for node in nodes if any(user not in set(nodes) for user in node.users)]
    name = f"mhc_checkpoint_{region.index}"
    gm.add_module(name, _body(nodes, inputs, outputs))
    with gm.graph.inserting_after(nodes[-1]):
        handle = gm.graph.get_attr(name)
    with gm.graph.inserting_after(handle):
        call = gm.graph.call_function(checkpoint, (handle, *inputs), {"use_reentrant": False, **region.keywords})
    _hold_policy(gm, region, call)
    last = call
    for i, output in enumerate(outputs):
        with gm.graph.inserting_after(last):
            last = gm.graph.call_function(operator.getitem, (call, i))
        last.meta = {k: v for k, v in output.meta.items() if k != META}
        output.replace_all_uses_with(last, delete_user_cb=lambda user: user not in set(nodes))
    for node in later:
        last.append(node)
        last = node
    for node in reversed(nodes):
        gm.graph.erase_node(node)


def _hold_policy(gm: fx.GraphModule, region: Region, call: fx.Node) -> None:
    """The policy of selective checkpointing is a function, which generated code can only take from an attribute."""
    if "context_fn" in call.kwargs:
        name = f"mhc_checkpoint_policy_{region.index}"
        setattr(gm, name, call.kwargs["context_fn"])
        with gm.graph.inserting_before(call):
            call.kwargs = {**call.kwargs, "context_fn": gm.graph.create_node("get_attr", name)}


def _dependants_within(nodes: Sequence[fx.Node]) -> list[fx.Node]:
    """Nodes that lie among those of a region without belonging to it, and use its values: they have to move behind."""
    region, later, node = set(nodes), [], nodes[0]
    while node is not nodes[-1]:
        touches = any(n in region or n in later for n in node.all_input_nodes)
        if node not in region and touches:
            later.append(node)
        assert node not in region or not any(n in later for n in node.all_input_nodes), (
            "a checkpoint region is not closed"
        )
        node = node.next
    return later


def _body(nodes: Sequence[fx.Node], inputs: Sequence[fx.Node], outputs: Sequence[fx.Node]) -> fx.GraphModule:
    graph = fx.Graph()
    copies = {node: graph.placeholder(node.name) for node in inputs}
    for node in nodes:
        copies[node] = graph.node_copy(node, copies.__getitem__)
    graph.output(tuple(copies[node] for node in outputs))
    return fx.GraphModule(torch.nn.Module(), graph)
