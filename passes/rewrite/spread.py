"""Let a rewritten graph compute on tensors that are distributed over several processes."""

from __future__ import annotations

import itertools
import math
import operator
from collections.abc import Callable, Sequence
from typing import Any, Protocol

import torch
from torch import fx
from torch.distributed.device_mesh import DeviceMesh

from mhc_compile import _torch_compat as compat
from mhc_compile.errors import ParallelError
from mhc_compile.kernels.operators import streams
from mhc_compile.kernels.operators.sharded import FROM_ONE, RESULTS, Spread, Sums
from mhc_compile.passes.graph.values import STREAMS_OF, example_of
from mhc_compile.passes.plan.data import OWNER

_CHECK = "streams_begin"
_OURS = streams.__name__.rpartition(".")[0]
"""Where the functions come from that a rewrite puts into a graph."""


class LateSums(Sums, Protocol):
    """Adds up gradients at the end of a backward, which it has to see begin."""

    def begin_behind(self, output: Any) -> Any:
        """The output, at which a backward begins."""


def let_spread(graph: fx.Graph, meshes: Callable[[], Sequence[DeviceMesh]], sums: LateSums | None = None) -> None:
    """Replace the functions of the rewrite, in place, and check the values where streams begin.

    Args:
        graph: rewritten and fused.
        meshes: gives those over which the parameters of the model are distributed.
        sums: adds up gradients at the end of a backward. Without it each site does.

    Raises:
        ParallelError: a function has no form for such tensors: its gradients would not be added up.
    """
    inputs = {n: e for n in graph.nodes if n.op == "placeholder" for e in [example_of(n)] if e is not None}
    spreads: dict[fx.Node, Spread] = {}  # of streams, of what they begin with, and of results of several parts
    for node in list(graph.nodes):
        if node.op == "call_function" and node.target in RESULTS:
            if node.target in FROM_ONE:
                _enter(graph, node, inputs, spreads, lambda: Spread(meshes, sums))
            spreads[node] = spreads[node.all_input_nodes[0]]
            own = (str(n.target) for n in node.all_input_nodes if n.op == "get_attr")
            spreads[node].names.update(dict.fromkeys(name for name in own if name.startswith(f"{OWNER}.")))
            node.target = spreads[node].bound(node.target)
        elif str(getattr(node.target, "__module__", "")).startswith(_OURS):
            raise ParallelError(
                f"{node.target.__name__} is not for tensors that are distributed over several processes: write a "
                "connection whose steps are (all but attention and dense), or use fully_shard alone"
            )
        elif STREAMS_OF in node.meta or node.target is operator.getitem:
            before = next((n for n in node.all_input_nodes if n in spreads), None)
            if before is not None:
                spreads[node] = spreads[before]
    if sums is not None:
        _watch_outputs(graph, sums)


def _watch_outputs(graph: fx.Graph, sums: LateSums) -> None:
    output = graph.output_node()
    for value in output.all_input_nodes:
        if value.op != "get_attr":
            with graph.inserting_before(output):
                output.replace_input_with(value, graph.call_function(_begins_behind(sums), (value,)))


def _begins_behind(sums: LateSums) -> Callable[[Any], Any]:
    def begin_behind(output: Any) -> Any:
        return sums.begin_behind(output)

    begin_behind.__module__ = __name__
    return begin_behind


def _enter(
    graph: fx.Graph,
    node: fx.Node,
    inputs: dict[fx.Node, torch.Tensor],
    spreads: dict[fx.Node, Spread],
    make: Callable[[], Spread],
) -> None:
    """Let the first operand of a node go through a check; `spreads` knows those that have."""
    x = node.args[0]
    assert isinstance(x, fx.Node)
    known = next((user for user in x.users if user in spreads and user.name.startswith(_CHECK)), None)
    if known is None:
        spread = make()
        with graph.inserting_before(node):
            known = graph.create_node(
                "call_function", _entering(x, inputs, spread, node.kwargs.get("axis")), (x, *inputs), name=_CHECK
            )
        known.meta["nn_module_stack"] = _shared(x, node)
        spreads[known] = spread
    node.args = (known, *node.args[1:])


def _shared(x: fx.Node, node: fx.Node) -> dict[str, Any]:
    """The module calls around both: streams begin before the first block is called, which may be compiled."""
    both = (n.meta.get("nn_module_stack") or {} for n in (x, node))
    pairs = zip(*(stack.items() for stack in both), strict=False)
    return dict(mine for mine, _ in itertools.takewhile(lambda pair: pair[0] == pair[1], pairs))


def _entering(x: fx.Node, inputs: dict[fx.Node, torch.Tensor], spread: Spread, axis: Any) -> Callable[..., Any]:
    """`enter(x, *inputs)`, which knows the shape of `x` from those of the inputs."""
    shape_of = _shape_function(x, inputs)
    axis = -1 if axis is None else axis

    def enter(x: torch.Tensor, *inputs: torch.Tensor) -> torch.Tensor:
        return spread.enter(x, shape_of(*(size for value in inputs for size in value.shape)), axis)

    enter.__module__ = __name__
    return enter


def _shape_function(x: fx.Node, inputs: dict[fx.Node, torch.Tensor]) -> Callable[..., tuple[int, ...]]:
    """The shape of a value from the sizes of all inputs, one after the other."""
    names: list[str] = []
    for example in inputs.values():
        names += [_symbol(size) or f"_{len(names) + axis}" for axis, size in enumerate(example.shape)]
    names = [f"_{i}" if name in names[:i] else name for i, name in enumerate(names)]  # sizes that are equal
    value = example_of(x)
    assert value is not None
    printer = compat.PythonPrinter()
    sizes = [printer.doprint(s.node.expr) if isinstance(s, torch.SymInt) else str(int(s)) for s in value.shape]
    code = f"lambda {', '.join(names)}: ({', '.join(sizes)},)"
    found: Callable[..., tuple[int, ...]] = eval(code, {"math": math})  # printed by sympy just above
    return found


def _symbol(size: Any) -> str | None:
    expression = size.node.expr if isinstance(size, torch.SymInt) else None
    return str(expression) if expression is not None and expression.is_Symbol else None
