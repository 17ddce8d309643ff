"""Which part of a parameter a branch uses, where the weights of all layers are stacked in one: `weight.2`."""

from __future__ import annotations

from collections.abc import Collection, Mapping, Sequence
from typing import Any

from torch import fx

from mhc_compile.passes.graph.ancestry import Ancestry
from mhc_compile.passes.graph.op_kinds import Kind, canonical_name, kind_of
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


def _index(node: fx.Node, weight: str) -> str | None:
    """What a node takes of the parameter: `2` along the first axis, `8-16` for a slice, `2@1` along the second."""
    name, places = canonical_name(node), dict[int, Any]()
    source: Any = node.args[0] if node.args else None
    if name == "select":
        source, axis, where = arguments(node, "input", "dim", "index")
        places = {axis: where}
    elif name == "narrow":
        source, axis, start, length = arguments(node, "input", "dim", "start", "length")
        places = {axis: slice(start, start + length)} if type(start) is int and type(length) is int else {}
    elif name == "getitem" and isinstance(source, fx.Node) and canonical_name(source) in _IN_PARTS:
        source, places = source.args[0], {0: node.args[1]}
    elif name == "getitem":
        places = _places(node.args[1])
    return _label(places, shape_of(source)) if places and _is(source, weight) else None


def _places(index: Any) -> dict[int, Any]:
    """Axis -> what is taken along it, for an index in brackets."""
    entries = index if isinstance(index, tuple) else (index,)
    if any(entry is None or entry is ... for entry in entries):
        return {}
    return {axis: entry for axis, entry in enumerate(entries) if entry != slice(None)}


def _label(places: Mapping[int, Any], sizes: Sequence[Any]) -> str | None:
    """None where what is taken is not known before the model runs."""
    labels = []
    for axis, where in places.items():
        size = sizes[axis] if isinstance(axis, int) and -len(sizes) <= axis < len(sizes) else None
        if type(size) is not int:
            return None
        if isinstance(where, slice) and all(type(end) in (int, type(None)) for end in (where.start, where.stop)):
            start, stop, _ = slice(where.start, where.stop).indices(size)
            label = f"{start}-{stop}"
        elif type(where) is int:
            label = str(where % size)
        else:
            return None
        labels.append(label if axis % len(sizes) == 0 else f"{label}@{axis % len(sizes)}")
    return ".".join(labels)


def _is(source: Any, weight: str) -> bool:
    """Whether a node is the whole parameter, or a view or cast of it."""
    while isinstance(source, fx.Node) and kind_of(source) in (Kind.SHAPE, Kind.CAST, Kind.COPY) and source.args:
        source = source.args[0]
    return isinstance(source, fx.Node) and source.op == "get_attr" and str(source.target) == weight
