"""Who computes what from whom: reachability on the data-flow graph, linear in the distance it has to look.

Only edges that carry data count. Sizes, dtypes and integer tensors do not make one value an ancestor of another, and
neither do parameters: they are the weights met on the way.
"""

from __future__ import annotations

from collections.abc import Collection, Iterable
from functools import cached_property

import torch
from torch import fx

from mhc_compile.passes.graph.op_kinds import Kind, canonical_name, is_map, kind_of, leaf_module, mixes
from mhc_compile.passes.graph.values import attribute, carries_data, flat_nodes

REACHED, MATRIX, VECTOR, POOLED, MIXED = 1, 2, 4, 8, 16
"""What lies on the way between two nodes, as bits.

Anything, a learnable matrix, a learnable scale, a pooling, another mixing of positions without a weight.
"""


_TEMPLATED = frozenset({"expand_as", "view_as", "reshape_as", "type_as"})
"""Ops whose second operand lends its shape or dtype only."""


def through_weight(flow: int) -> bool:
    """Whether the way is a learnable function of tokens: it meets a matrix, or a pooling between learnable scales.

    A scale alone makes an activation function (Snake), which is no branch.
    """
    return bool(flow & MATRIX) or flow & (VECTOR | POOLED) == VECTOR | POOLED


def through_mixer(flow: int) -> bool:
    """Whether positions are mixed on the way, by a weight or without one (Fourier transforms, pooling, shifts)."""
    return bool(flow & (MATRIX | POOLED | MIXED))


class Ancestry:
    """Ancestor queries on one graph; nodes are addressed by their position in it."""

    def __init__(self, gm: fx.GraphModule) -> None:
        self.gm = gm
        self.nodes: list[fx.Node] = list(gm.graph.nodes)
        self.index: dict[fx.Node, int] = {node: i for i, node in enumerate(self.nodes)}
        self.kinds: list[Kind] = [kind_of(node) for node in self.nodes]
        self._data = [
            carries_data(node) and kind is not Kind.METADATA for node, kind in zip(self.nodes, self.kinds, strict=True)
        ]
        self.inputs: list[list[int]] = [self._data_inputs(i) for i in range(len(self.nodes))]
        self.weights: list[tuple[str, ...]] = [self._weights(i) for i in range(len(self.nodes))]
        self.met = [self._bits(i) for i in range(len(self.nodes))]
        self._scans: dict[int, bytearray] = {}

    def _data_inputs(self, i: int) -> list[int]:
        if self.kinds[i] is Kind.METADATA:
            return []
        node = self.nodes[i]
        inputs = node.args[:1] if canonical_name(node) in _TEMPLATED else node.all_input_nodes
        found = (self.index[n] for n in flat_nodes(tuple(inputs)) if n.op != "get_attr")
        return [j for j in found if self._data[j]]

    def _weights(self, i: int) -> tuple[str, ...]:
        """Names of the learnable tensors of rank >= 2 that node `i` contracts its input with."""
        node = self.nodes[i]
        if self.kinds[i] is not Kind.OPAQUE or node.op in ("placeholder", "get_attr", "output"):
            return ()
        if node.op == "call_module":
            module = leaf_module(node)
            return (str(node.target),) if any(p.dim() >= 2 for p in module.parameters()) else ()
        return self._matrices(node, ()) if is_map(canonical_name(node)) or self._calls_a_body(node) else ()

    def _calls_a_body(self, node: fx.Node) -> bool:
        """Whether the node is handed a graph to run, as `torch.cond` is: what is in there may be any layer."""
        handles = (n for n in node.all_input_nodes if n.op == "get_attr")
        return any(isinstance(attribute(self.gm, str(n.target)), fx.GraphModule) for n in handles)

    def weights_beside(self, i: int, stream: Collection[int]) -> tuple[str, ...]:
        """`weights[i]` without those that come in through `stream` alone, as where it starts at learned queries."""
        if not self.weights[i] or self.nodes[i].op == "call_module":
            return self.weights[i]
        return self._matrices(self.nodes[i], stream)

    def parameters_of(self, i: int) -> tuple[str, ...]:
        """The matrices that a node is computed from, if it is computed from parameters alone."""
        return self._parameters_of[i]

    def _matrices(self, node: fx.Node, stream: Collection[int]) -> tuple[str, ...]:
        inputs = (self.index[n] for n in node.all_input_nodes)
        groups = (self._parameters_of[j] for j in inputs if j not in stream)
        return tuple(dict.fromkeys(name for group in groups for name in group))

    @cached_property
    def _parameters_of(self) -> list[tuple[str, ...]]:
        """For nodes computed from parameters alone (casts, transposes, weight norm), the matrices among those."""
        known: list[tuple[str, ...]] = []
        for node in self.nodes:
            inputs = node.all_input_nodes
            if node.op == "get_attr":
                value = attribute(self.gm, str(node.target))
                is_weight = isinstance(value, torch.nn.Parameter) and value.dim() >= 2
                known.append((str(node.target),) if is_weight else ())
            elif canonical_name(node) == "embedding":
                known.append(())  # a table of biases or positions, not a map of the token's channels
            elif node.op in ("call_function", "call_method") and all(self._is_constant[self.index[n]] for n in inputs):
                known.append(tuple(name for n in inputs for name in known[self.index[n]]))
            else:
                known.append(())
        return known

    @cached_property
    def _is_constant(self) -> list[bool]:
        """For each node, whether no input of the model takes part in it (sizes do not count)."""
        flags: list[bool] = []
        for i, node in enumerate(self.nodes):
            depends = node.op == "placeholder" or any(not flags[self.index[n]] for n in node.all_input_nodes)
            flags.append(self.kinds[i] is Kind.METADATA or not depends)
        return flags

    def _bits(self, i: int) -> int:
        """What a path meets at node `i`."""
        if self.weights[i]:
            return MATRIX
        if self.kinds[i] is Kind.POOL:
            return POOLED
        learned = bool(self.parameters_at(i))
        mixed = MIXED if mixes(canonical_name(self.nodes[i])) and self.nodes[i].op.startswith("call") else 0
        return mixed | (VECTOR if learned else 0)

    def parameters_at(self, i: int) -> list[str]:
        """Names of the parameters that node `i` takes, directly or reshaped."""
        return [n for n in self._attributes(i) if isinstance(attribute(self.gm, n), torch.nn.Parameter)]

    def _attributes(self, i: int) -> list[str]:
        """Targets of the attributes node `i` takes, directly or reshaped."""
        node = self.nodes[i]
        if node.op == "call_module":
            return [f"{node.target}.{name}" for name, _ in leaf_module(node).named_parameters()]
        direct = [n for n in node.all_input_nodes if n.op == "get_attr"]
        reshaped = [m for n in node.all_input_nodes if self._is_constant[self.index[n]] for m in n.all_input_nodes]
        return [str(n.target) for n in (*direct, *reshaped) if n.op == "get_attr"]

    def reach(self, source: int, target: int) -> int:
        """What data meets on its way from `source` to `target`, as bits; 0 if none arrives."""
        if target <= source:
            return REACHED if target == source else 0
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
        """Forward reachability up to `until`: byte `i` belongs to node `source + i`. Kept, and continued on demand."""
        state = self._scans.setdefault(source, bytearray([REACHED]))
        for i in range(source + len(state), until + 1):
            met = 0
            for j in self.inputs[i]:
                if j >= source:
                    met |= state[j - source]
            state.append(met | self.met[i] if met else 0)
        return state

    @cached_property
    def names(self) -> list[str]:
        """Name of each node."""
        return [node.name for node in self.nodes]

    @cached_property
    def from_input(self) -> list[bool]:
        """For each node, whether it is computed from an input of the model (integers count, sizes do not)."""
        return [not constant for constant in self._is_constant]

    @cached_property
    def live(self) -> list[bool]:
        """For each node, whether an output of the model is computed from its values (sizes and dtypes do not count)."""
        flags = [False] * len(self.nodes)
        for i in range(len(self.nodes) - 1, -1, -1):
            node = self.nodes[i]
            used = self.kinds[i] is not Kind.METADATA and any(flags[self.index[u]] for u in node.users)
            flags[i] = node.op == "output" or used
        return flags
