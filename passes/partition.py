"""Take a rewritten graph, whose nodes are marked with their stage, apart: one graph per pipeline stage.

What one stage computes and a later one uses is handed on from stage to stage. Sizes are not: a stage reads them off the
tensors it receives.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from functools import cached_property
from typing import Any

import torch
from torch import fx

from mhc_compile import _torch_compat as compat
from mhc_compile.errors import UnsentValueError
from mhc_compile.passes.movable import is_plain
from mhc_compile.passes.plan import Dim
from mhc_compile.passes.values import STAGE, STREAMS_OF, example_of, location_of, value_of


@dataclass(frozen=True)
class Crossing:
    """One tensor that crosses a border.

    Attributes:
        name: of the node that computes it.
        streams: whether it holds all n residual streams, on its first axis.
        shape: its sizes; symbolic ones as text.
        dtype: as traced, without autocast.
    """

    name: str
    streams: bool
    shape: tuple[Dim, ...]
    dtype: torch.dtype


@dataclass(frozen=True)
class StageGraph:
    """What one stage computes.

    Attributes:
        gm: its placeholders are the flat inputs of the model (first stage) or `receives`; its outputs a tuple of
            `sends`, contiguous, or the flat outputs of the model (last stage).
        receives: from the stage before.
        sends: to the stage behind.
    """

    gm: fx.GraphModule
    receives: tuple[Crossing, ...]
    sends: tuple[Crossing, ...]


def partition(gm: fx.GraphModule, count: int, n: int) -> list[StageGraph]:
    """The graphs of all stages, in order.

    Args:
        gm: marked by `label_stages` and rewritten. It must hold every attribute its nodes name, the new parameters too.
        count: number of stages.
        n: number of streams.

    Raises:
        UnsentValueError: something else than a tensor would have to cross a border.
    """
    received = _received(gm.graph, count)
    crossings = [tuple(_crossing(node, n) for node in nodes) for nodes in received]
    graphs = [_Stage(gm.graph, s, count, received, n).copy() for s in range(count)]
    return [StageGraph(fx.GraphModule(gm, graph), crossings[s], crossings[s + 1]) for s, graph in enumerate(graphs)]


def _received(graph: fx.Graph, count: int) -> list[list[fx.Node]]:
    """What each stage receives: streams first, else in graph order. One more at the end, which is empty."""
    needed: list[dict[fx.Node, None]] = [{} for _ in range(count + 1)]
    for node in graph.nodes:
        stage = node.meta.get(STAGE)
        if stage is not None:
            needed[stage].update(dict.fromkeys(_from_before(node.all_input_nodes, stage)))
    order = {node: i for i, node in enumerate(graph.nodes)}
    for stage in range(count - 1, 0, -1):
        passed_on = (node for node in needed[stage + 1] if node.meta[STAGE] < stage)
        needed[stage].update(dict.fromkeys(passed_on))
    return [sorted(nodes, key=lambda n: (STREAMS_OF not in n.meta, order[n])) for nodes in needed]


def _from_before(nodes: Sequence[fx.Node], stage: int) -> Iterator[fx.Node]:
    for node in nodes:
        if node.op == "get_attr" or is_plain(value_of(node)) or node.meta[STAGE] == stage:
            continue
        if node.meta[STAGE] is None:
            yield from _from_before(node.all_input_nodes, stage)
            continue
        if example_of(node) is None:
            raise UnsentValueError(
                f"{node.name} ({location_of(node) or 'unknown line'}) of stage {node.meta[STAGE]} is used in stage "
                f"{stage} and is no tensor, so it cannot be sent: cut in front of that line, or behind the last use"
            )
        yield node


def _crossing(node: fx.Node, n: int) -> Crossing:
    shape = tuple(d if isinstance(d, int) else str(d) for d in _shape(node, n))
    return Crossing(node.name, STREAMS_OF in node.meta, shape, _example(node).dtype)


def _example(node: fx.Node) -> torch.Tensor:
    tensor = example_of(node)
    assert tensor is not None
    return tensor


def _shape(node: fx.Node, n: int) -> tuple[Any, ...]:
    own = tuple(_example(node).shape)
    return (n, *own) if STREAMS_OF in node.meta else own


class _Stage:
    """Copies the nodes of one stage. `copies` are those made so far, by the node of the whole graph."""

    def __init__(self, whole: fx.Graph, stage: int, count: int, received: list[list[fx.Node]], n: int) -> None:
        self.whole, self.stage, self.n = whole, stage, n
        self.receives, self.sends = received[stage], received[stage + 1]
        self.last = stage == count - 1
        self.graph = fx.Graph()
        self.copies: dict[fx.Node, fx.Node] = {}
        self.numbers: dict[Any, Any] = {}

    def copy(self) -> fx.Graph:
        for node in self.receives:
            self.copies[node] = self.graph.placeholder(node.name)
            self.copies[node].meta = dict(node.meta)
        gradients = self._switch_gradients()
        for node in self.whole.nodes:
            if node.meta.get(STAGE) == self.stage:
                self.copies[node] = self.graph.node_copy(node, self._fetch)
                gradients = node.args[0] if node.target is compat.set_grad_enabled else gradients
        if not self.last:
            if not gradients:
                self.graph.call_function(compat.set_grad_enabled, (True,))
            self.graph.output(tuple(self._send(node) for node in self.sends))
        return self.graph

    def _switch_gradients(self) -> bool:
        """Begin as the stage before ended, where a cut lies inside `torch.no_grad()`."""
        switches = [n for n in self.whole.nodes if n.target is compat.set_grad_enabled and n.meta[STAGE] < self.stage]
        enabled = bool(switches[-1].args[0]) if switches else True
        if not enabled:
            self.graph.call_function(compat.set_grad_enabled, (False,))
        return enabled

    def _send(self, node: fx.Node) -> fx.Node:
        return self.graph.call_method("contiguous", (self.copies[node],))

    def _fetch(self, node: fx.Node) -> Any:
        """What stands for a node of the whole graph in this stage."""
        if node not in self.copies:
            if node.op == "get_attr" or node.meta[STAGE] is None:
                self.copies[node] = self.graph.node_copy(node, self._fetch)
            else:
                return self._number(value_of(node))
        return self.copies[node]

    def _number(self, value: Any) -> Any:
        if isinstance(value, (tuple, list)):
            return tuple(map(self._number, value))
        if not isinstance(value, (torch.SymInt, torch.SymFloat, torch.SymBool)):
            return value
        expression = value.node.expr
        if expression not in self.numbers:
            self.numbers[expression] = self._compute(expression)
        return self.numbers[expression]

    def _compute(self, expression: Any) -> Any:
        """A size, off the received tensor that has it; an expression of such sizes otherwise."""
        if expression in self._sizes:
            node, axis = self._sizes[expression]
            return self.graph.call_method("size", (self.copies[node], axis))
        unknown = [str(s) for s in expression.free_symbols if s not in self._sizes]
        if unknown:
            raise UnsentValueError(
                f"stage {self.stage} needs the number {expression}, and {', '.join(unknown)} is no size of a tensor "
                "that it receives: cut elsewhere, so that what needs it lies in front of the cut"
            )
        symbols = {s: fx.Proxy(self._number_of_symbol(s)) for s in expression.free_symbols}
        result = compat.sympy_interp(compat.PythonReferenceAnalysis, symbols, expression)
        return result.node if isinstance(result, fx.Proxy) else result

    def _number_of_symbol(self, symbol: Any) -> fx.Node:
        if symbol not in self.numbers:
            self.numbers[symbol] = self._compute(symbol)
        number: fx.Node = self.numbers[symbol]
        return number

    @cached_property
    def _sizes(self) -> dict[Any, tuple[fx.Node, int]]:
        """Symbolic size -> a received tensor and the axis on which it has this size."""
        found: dict[Any, tuple[fx.Node, int]] = {}
        for node in self.receives:
            for axis, size in enumerate(_shape(node, self.n)):
                if isinstance(size, torch.SymInt):
                    found.setdefault(size.node.expr, (node, axis))
        return found
