"""Which part of a parameter a branch uses, where the weights of all layers are stacked in one: `weight[2]`."""

from __future__ import annotations

from collections.abc import Collection
from typing import Any

from torch import fx

from mhc_compile.passes.graph.ancestry import Ancestry
from mhc_compile.passes.graph.op_kinds import canonical_name
from mhc_compile.passes.graph.values import shape_of
from mhc_compile.passes.graph.wording import arguments

_IN_PARTS = frozenset({"unbind", "chunk", "split", "tensor_split"})
"""Operators that give all parts of a tensor, one of which is taken."""


def part_of(graph: Ancestry, i: int, weight: str, stream: Collection[int]) -> str:
    """`weight.2` if what node `i` contracts with is one part of a parameter, the third; else the name as it is."""
    todo = [n for n in graph.nodes[i].all_input_nodes if graph.index[n] not in stream]
    seen = set(todo)
    while todo:
        node = todo.pop()
        index = _index(node, weight)
        if index is not None:
            return f"{weight}.{index}"
        following = {n for n in node.all_input_nodes if n not in seen and weight in graph.parameters_of(graph.index[n])}
        seen |= following
        todo += following
    return weight


def _index(node: fx.Node, weight: str) -> int | None:
    """The position that a node takes of the parameter along its first axis."""
    source: Any = node.args[0] if node.args else None
    if canonical_name(node) == "select":
        source, axis, index = arguments(node, "input", "dim", "index")
        index = index if axis == 0 else None
    elif canonical_name(node) == "getitem":
        index = node.args[1][0] if isinstance(node.args[1], tuple) and node.args[1] else node.args[1]
        in_parts = isinstance(source, fx.Node) and canonical_name(source) in _IN_PARTS
        source = source.args[0] if in_parts else source
    else:
        return None
    if not isinstance(source, fx.Node) or source.op != "get_attr" or str(source.target) != weight:
        return None
    size = shape_of(source)[0] if shape_of(source) else 0
    return index % size if type(index) is int and type(size) is int and size else None
