"""Which nodes every pipeline stage can compute for itself: from sizes and buffers alone."""

from __future__ import annotations

from collections.abc import Collection, Iterator, Sequence
from typing import Any

import torch
from torch import fx

from mhc_compile import _torch_compat as compat
from mhc_compile.passes.graph.normalise import aliases
from mhc_compile.passes.graph.op_kinds import Kind, canonical_name, is_inplace, kind_of
from mhc_compile.passes.graph.values import attribute, flat_nodes, value_of


def computed_anywhere(gm: fx.GraphModule, nodes: Sequence[fx.Node]) -> set[fx.Node]:
    """Nodes computed from sizes and buffers alone, without parameters, random numbers or writes."""
    written = _written_targets(nodes)
    changed = {alias for _, operand in writes(nodes) for alias in aliases(operand)}
    found: set[fx.Node] = set()
    for node in nodes:
        if node.op not in ("call_function", "call_method") or node in changed or not _is_pure(node):
            continue
        value = value_of(node)
        if (isinstance(value, torch.Tensor) or is_plain(value)) and all(
            n in found or is_plain(value_of(n)) or _is_fixed(gm, n, written) for n in node.all_input_nodes
        ):
            found.add(node)
    return found


def _is_fixed(gm: fx.GraphModule, node: fx.Node, written: Collection[str]) -> bool:
    if node.op != "get_attr" or node.target in written:
        return False
    value = attribute(gm, str(node.target))
    return isinstance(value, torch.Tensor) and not isinstance(value, torch.nn.Parameter)


def _is_pure(node: fx.Node) -> bool:
    name = canonical_name(node)
    if is_inplace(node) or kind_of(node) is Kind.DROPOUT or _is_random(name):
        return False
    if node.op == "call_method":
        return hasattr(torch.Tensor, name)
    if isinstance(node.target, compat.OpOverload):
        return bool(node.target.namespace == "aten")
    return str(getattr(node.target, "__module__", None) or "torch") in _LIBRARIES


_LIBRARIES = frozenset({"torch", "_operator", "math", "builtins", "torch.functional", "torch.nn.functional"})


def _is_random(name: str) -> bool:
    packet = getattr(torch.ops.aten, name, None)
    overloads = [getattr(packet, o) for o in packet.overloads()] if packet is not None else []
    return any(torch.Tag.nondeterministic_seeded in o.tags for o in overloads)


def writes(nodes: Sequence[fx.Node]) -> Iterator[tuple[fx.Node, fx.Node]]:
    """Pairs of a node and an operand of it that it changes in place."""
    for node in nodes:
        if is_inplace(node):
            yield from ((node, operand) for operand in flat_nodes(node.args[:1]))
        elif canonical_name(node) == "batch_norm" and _trains(node):
            yield from ((node, operand) for operand in flat_nodes(node.args[1:3]))


def _trains(node: fx.Node) -> bool:
    """Whether a batch norm updates its running statistics; `training` is its sixth argument."""
    return bool(node.kwargs.get("training", node.args[5] if len(node.args) > 5 else False))


def _written_targets(nodes: Sequence[fx.Node]) -> set[str]:
    return {str(alias.target) for _, operand in writes(nodes) for alias in aliases(operand) if alias.op == "get_attr"}


def is_plain(value: Any) -> bool:
    """Whether a value is a number, possibly symbolic, or a tuple of such: every stage can tell it from the shapes."""
    if isinstance(value, (tuple, list)):
        return all(map(is_plain, value))
    return isinstance(value, (bool, int, float, str, torch.SymInt, torch.SymFloat, torch.SymBool))
