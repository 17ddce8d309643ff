"""A graph of which every operator is lifted, checked stream by stream, and one operator alone."""

from __future__ import annotations

import torch
from torch import Tensor, fx, nn
from torch.fx.experimental.proxy_tensor import make_fx

from mhc_compile.passes.graph.ancestry import Ancestry
from mhc_compile.passes.lift.lifting import can_lift, lift
from tests.passes.graphs import traced
from tests.passes.layers import Net, Net2, tokens

N = 3


X = tokens(2, 3, 4)


def lift_all(gm: fx.GraphModule, stream: fx.Node) -> fx.GraphModule:
    """Every op that depends on the placeholder `stream` is lifted, which now gets `[N, *shape]`."""
    graph = Ancestry(gm)
    streams = {stream: stream}
    output = next(n for n in gm.graph.nodes if n.op == "output")
    for i, node in enumerate(graph.nodes):
        if node.op.startswith("call") and any(n in streams for n in node.all_input_nodes):
            assert can_lift(graph, i, [graph.index[n] for n in streams]), node
            with gm.graph.inserting_before(output):
                streams[node] = lift(node, dict(streams))
    output.replace_input_with(output.args[0], streams[output.args[0]])
    gm.graph.eliminate_dead_code()
    gm.recompile()
    return gm


def check(model: nn.Module, x: Tensor, *others: Tensor, aten: bool = False) -> None:
    """Lifted ops do to each stream what the model does to a tensor."""
    gm = make_fx(model)(x, *others) if aten else traced(model, x, *others)
    X = torch.stack([x * (1 + i) + i for i in range(N)])
    expected = torch.stack([model(X[i], *others) for i in range(N)])
    stream = next(n for n in gm.graph.nodes if n.op == "placeholder")
    result = lift_all(gm, stream)(X, *others)
    assert result.shape == expected.shape
    assert torch.allclose(result, expected, rtol=1e-12, atol=1e-12)


def op_alone(fn, *inputs):
    """`(graph, position of the last op)` of a function of the stream `x`."""
    model = {1: Net, 2: Net2}[len(inputs)](lambda m, *args: fn(*args))
    graph = Ancestry(traced(model, *inputs))
    return graph, len(graph.nodes) - 2
