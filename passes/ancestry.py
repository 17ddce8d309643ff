"""Who computes what from whom: reachability on the data-flow graph, linear in the distance it has to look.

Only edges that carry data count. Sizes, dtypes and integer tensors do not make one value an ancestor of another, and
neither do parameters: they are the weights met on the way.
"""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass, field
from functools import cached_property

import torch
from torch import fx

from mhc_compile.passes.op_kinds import Kind, kind_of, leaf_module
from mhc_compile.passes.values import attribute, carries_data

NOT_REACHED, REACHED, THROUGH_WEIGHT = 0, 1, 2

_WEIGHT_PREPARATION = frozenset({Kind.SHAPE, Kind.CAST, Kind.COPY, Kind.SELECT})


@dataclass
class _Scan:
    """How far the forward scan from one node has come: `state[i]` belongs to node `source + i`."""

    state: bytearray = field(default_factory=lambda: bytearray([REACHED]))


class Ancestry:
    """Ancestor queries on one graph; nodes are addressed by their position in it."""

    def __init__(self, gm: fx.GraphModule) -> None:
        self.gm = gm
        self.nodes: list[fx.Node] = list(gm.graph.nodes)
        self.index: dict[fx.Node, int] = {node: i for i, node in enumerate(self.nodes)}
        self.kinds: list[Kind] = [kind_of(node) for node in self.nodes]
        self._data = [carries_data(node) and kind is not Kind.METADATA for node, kind in zip(self.nodes, self.kinds, strict=True)]
        self.inputs: list[list[int]] = [self._data_inputs(i) for i in range(len(self.nodes))]
        self.weights: list[tuple[str, ...]] = [self._weights(i) for i in range(len(self.nodes))]
        self._scans: dict[int, _Scan] = {}

    def _data_inputs(self, i: int) -> list[int]:
        if self.kinds[i] is Kind.METADATA:
            return []
        found = (self.index[n] for n in self.nodes[i].all_input_nodes if n.op != "get_attr")
        return [j for j in found if self._data[j]]

    def _weights(self, i: int) -> tuple[str, ...]:
        """Names of the learnable tensors of rank >= 2 that node `i` contracts its input with."""
        node = self.nodes[i]
        if self.kinds[i] is not Kind.OPAQUE or node.op in ("placeholder", "get_attr", "output"):
            return ()
        if node.op == "call_module":
            module = leaf_module(node)
            return (str(node.target),) if any(p.dim() >= 2 for p in module.parameters()) else ()
        names = (self._weight_name(n) for n in node.all_input_nodes)
        return tuple(dict.fromkeys(name for name in names if name))

    def _weight_name(self, node: fx.Node) -> str | None:
        """The parameter behind an operand, looked up through casts, views and indexing."""
        while node.op in ("call_function", "call_method") and self.kinds[self.index[node]] in _WEIGHT_PREPARATION:
            inputs = node.all_input_nodes
            if not inputs:
                return None
            node = inputs[0]
        if node.op != "get_attr":
            return None
        value = attribute(self.gm, str(node.target))
        is_weight = isinstance(value, torch.nn.Parameter) and value.dim() >= 2
        return str(node.target) if is_weight else None

    def reach(self, source: int, target: int) -> int:
        """NOT_REACHED, REACHED or THROUGH_WEIGHT: whether data flows from `source` to `target`."""
        if target <= source:
            return REACHED if target == source else NOT_REACHED
        return self._scan(source, target)[target - source]

    def between(self, source: int, targets: Iterable[int]) -> set[int]:
        """Every node computed from `source` that some of `targets` is computed from; targets included, source not."""
        wanted = [t for t in targets if t > source]
        state = self._scan(source, max(wanted, default=source))
        found = {t for t in wanted if state[t - source]}
        todo = list(found)
        while todo:
            for j in self.inputs[todo.pop()]:
                if j > source and j not in found and state[j - source]:
                    found.add(j)
                    todo.append(j)
        return found

    def _scan(self, source: int, until: int) -> bytearray:
        """Forward reachability from `source` up to `until`; kept, and continued where a later query needs more."""
        state = self._scans.setdefault(source, _Scan()).state
        for i in range(source + len(state), until + 1):
            best = 0
            for j in self.inputs[i]:
                if j >= source and state[j - source] > best:
                    best = state[j - source]
            state.append(THROUGH_WEIGHT if best and self.weights[i] else best)
        return state

    @cached_property
    def from_input(self) -> list[bool]:
        """For each node, whether it is computed from an input of the model (integers count, sizes do not)."""
        flags: list[bool] = []
        for i, node in enumerate(self.nodes):
            if self.kinds[i] is Kind.METADATA:
                flags.append(False)
            elif node.op == "placeholder":
                flags.append(True)
            else:
                flags.append(any(flags[self.index[n]] for n in node.all_input_nodes))
        return flags

    @cached_property
    def live(self) -> list[bool]:
        """For each node, whether an output of the model is computed from it."""
        flags = [False] * len(self.nodes)
        for i in range(len(self.nodes) - 1, -1, -1):
            node = self.nodes[i]
            flags[i] = node.op == "output" or any(flags[self.index[u]] for u in node.users)
        return flags
