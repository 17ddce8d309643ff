"""What every pass that emits nodes does with them: where they go, what they are called, and who reads them."""

from __future__ import annotations

from collections.abc import Mapping

from torch import fx

from mhc_compile.passes.graph.checkpointed import META as CHECKPOINT
from mhc_compile.passes.graph.values import STAGE

INHERITED_META = ("stack_trace", "nn_module_stack", CHECKPOINT, STAGE)
"""What a new node has from the node whose part it takes: file, line and module, and what it lies in."""


def describe(node: fx.Node, origin: fx.Node, name: str) -> None:
    """Carry over what stands in `INHERITED_META`, and name the node."""
    node.meta.update({k: origin.meta[k] for k in INHERITED_META if k in origin.meta})
    node._rename(name)


def behind(node: fx.Node) -> fx.Node:
    """The node to insert in front of in order to land behind `node`; inputs stay together at the top."""
    following = node.next
    while following.op == "placeholder":
        following = following.next
    return following


def replace_inputs(user: fx.Node, replacements: Mapping[fx.Node, fx.Node]) -> None:
    """Let a node read others."""
    user.args, user.kwargs = fx.map_arg((user.args, user.kwargs), lambda node: replacements.get(node, node))
