"""How a call is said in other words: what is emitted for it and what it becomes itself."""

from __future__ import annotations

import operator
from collections.abc import Callable
from typing import Any

from torch import fx

from mhc_compile.passes.graph.values import dtype_of, flat_nodes, rank_of, same_shape, tensor_of


def arguments(node: fx.Node, *names: str) -> list[Any]:
    """The arguments called `names`, by position or keyword; None where one is not given."""
    given = dict(zip(names, node.args, strict=False))
    return [given.get(name, node.kwargs.get(name)) for name in names]


def emit(node: fx.Node, target: Callable[..., Any], *args: Any, like: fx.Node | None = None) -> fx.Node:
    """A call in front of `node`, with the value of `like`, or of `node` itself, as its example."""
    with node.graph.inserting_before(node):
        made = node.graph.call_function(target, args)
    made.meta = {**(like or node).meta, "stack_trace": node.meta.get("stack_trace", "")}
    return made


def become(node: fx.Node, target: Callable[..., Any], *args: Any) -> None:
    """Let a node be another call; what reads it stays."""
    node.op, node.target, node.args, node.kwargs = "call_function", target, args, {}


def product(node: fx.Node, left: Any, right: Any, target: Callable[..., Any] = operator.mul) -> fx.Node:
    """A product has the broadcast shape of its factors: that of the larger one, which is what detection looks at."""
    factors = [f for f in flat_nodes((left, right)) if tensor_of(f) is not None]
    larger = max(factors, key=lambda f: (same_shape(f, node), rank_of(f) or 0), default=node)
    return emit(node, target, left, right, like=larger)


def is_float(node: fx.Node) -> bool:
    """Whether this is a value that streams could be made of."""
    dtype = dtype_of(node)
    return dtype is not None and dtype.is_floating_point and (rank_of(node) or 0) >= 2
