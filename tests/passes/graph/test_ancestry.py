from __future__ import annotations

import networkx
import pytest
import torch
import torch.nn.functional as F
from torch import nn

from mhc_compile.passes.detect.residuals import find_residuals
from mhc_compile.passes.graph.ancestry import MATRIX, MIXED, POOLED, REACHED, VECTOR, Ancestry, through_weight
from mhc_compile.passes.graph.values import tensor_of
from tests.passes.graphs import graph_of
from tests.passes.layers import Attention, Mlp, Net, Net2, PreNorm, mlps, tokens, vector

X = tokens()


def at(graph: Ancestry, name: str) -> int:
    return graph.names.index(name)


def last(graph: Ancestry) -> int:
    return graph.index[graph.nodes[-1].all_input_nodes[0]]


@pytest.mark.parametrize("front_end", ["symbolic", "export"])
def test_reach_and_between_are_those_of_networkx(front_end):
    graph = graph_of(nn.Sequential(PreNorm(), PreNorm()).double(), X, front_end=front_end)
    edges = networkx.DiGraph([(j, i) for i, inputs in enumerate(graph.inputs) for j in inputs])
    edges.add_nodes_from(range(len(graph.nodes)))
    below = {i: networkx.descendants(edges, i) for i in edges}
    for source in range(0, len(graph.nodes), 4):
        for target in range(source + 1, len(graph.nodes)):
            assert bool(graph.reach(source, target)) == (target in below[source])
        target = last(graph)
        between = below[source] & (networkx.ancestors(edges, target) | {target})
        assert graph.between(source, [target]) == between


def test_a_node_reaches_itself_and_nothing_before_it():
    graph = graph_of(Net(lambda m, x: m.f(x), f=Mlp()).double(), X)
    assert graph.reach(2, 2) == REACHED and graph.reach(2, 1) == 0 and graph.between(2, [2, 1]) == set()


def test_sizes_and_integers_carry_nothing():
    def body(m, x, y):
        return torch.zeros(x.size(0), 6, 8, dtype=x.dtype) + y * (x > 0).any() + y.new_zeros(x.shape)

    graph = graph_of(Net2(body), X, X.clone(), front_end="dynamo")
    x, y = (i for i, n in enumerate(graph.nodes) if n.op == "placeholder" and tensor_of(n) is not None)
    assert graph.reach(x, last(graph)) == 0
    assert graph.reach(y, last(graph))


def flow(body, *, front_end="symbolic", **layers) -> int:
    graph = graph_of(Net(body, **layers).double(), X, front_end=front_end)
    start = next(i for i, n in enumerate(graph.nodes) if n.op == "placeholder")
    return graph.reach(start, last(graph)) & ~REACHED


@pytest.mark.parametrize("front_end", ["dynamo", "symbolic", "export"])
@pytest.mark.parametrize(("body", "expected"), [
    (lambda m, x: m.linear(x), MATRIX), (lambda m, x: F.linear(x, m.linear.weight), MATRIX),
    (lambda m, x: x @ m.linear.weight.t(), MATRIX), (lambda m, x: x @ m.linear.weight.double().t(), MATRIX),
    (lambda m, x: m.conv(x.transpose(1, 2)), MATRIX), (lambda m, x: torch.sin(x), 0),
    (lambda m, x: x @ x.transpose(1, 2), MIXED), (lambda m, x: x @ m.table, MIXED), (lambda m, x: x * m.scale, VECTOR),
    (lambda m, x: m.norm(x), VECTOR), (lambda m, x: F.avg_pool1d(x, 1), POOLED),
    (lambda m, x: F.avg_pool1d(x * m.scale, 1), VECTOR | POOLED), (lambda m, x: x * m.linear.weight[:1], 0),
])  # fmt: skip
def test_what_data_meets_on_its_way(body, expected, front_end):
    layers = {"linear": nn.Linear(8, 8), "conv": nn.Conv1d(8, 8, 1), "norm": nn.LayerNorm(8), "scale": vector(),
              "table": nn.Buffer(torch.randn(8, 8))}  # fmt: skip
    assert flow(body, front_end=front_end, **layers) & ~(0 if expected else VECTOR) == expected


@pytest.mark.parametrize(("bits", "expected"), [
    (REACHED, False), (REACHED | MATRIX, True), (REACHED | VECTOR, False), (REACHED | POOLED, False),
    (REACHED | VECTOR | POOLED, True), (0, False),
])  # fmt: skip
def test_a_scale_alone_is_no_branch(bits, expected):
    assert through_weight(bits) is expected


@pytest.mark.parametrize("front_end", ["dynamo", "export"])
def test_weights_are_found_through_casts_transposes_and_weight_norm(front_end):
    model = Net(lambda m, x: F.linear(x, m.g * F.normalize(m.v.float().double(), dim=1)),
                v=nn.Parameter(torch.randn(8, 8)), g=nn.Parameter(torch.randn(8, 1)))  # fmt: skip
    graph = graph_of(model.double(), X, front_end=front_end)
    assert set(graph.weights[last(graph)]) == {"v", "g"}


def test_learned_queries_the_stream_starts_at_are_no_weights_beside_it():
    model = Net(lambda m, x: (h := m.start(m.queries)) + F.linear(h @ x.transpose(1, 2), m.w), start=nn.Linear(8, 8),
                queries=nn.Parameter(torch.randn(2, 6, 8)), w=nn.Parameter(torch.randn(8, 6)))  # fmt: skip
    graph = graph_of(model.double(), X, front_end="dynamo")
    product = next(i for i, n in enumerate(graph.nodes) if "matmul" in n.name)
    stream = graph.inputs[product][0]
    assert set(graph.weights[product]) == {"queries", "start.weight"}
    assert graph.weights_beside(product, {stream}) == ()


def test_from_input_and_live():
    def body(m, x):
        dead = m.f0(x)  # noqa: F841
        return m.f1(x) + m.table * 2.0

    graph = graph_of(Net(body, table=nn.Parameter(torch.randn(2, 6, 8)), **mlps(2)).double(), X)
    assert not graph.live[at(graph, "f0_2")] and graph.live[at(graph, "f1_2")]
    assert not graph.from_input[at(graph, "mul")] and graph.from_input[at(graph, "f1_2")]


def deep(layers: int) -> nn.Module:
    return nn.Sequential(*(PreNorm() for _ in range(layers))).double()


def cross(layers: int) -> nn.Module:
    """A decoder: every layer reads one memory from the top of the graph."""

    def body(m, x):
        memory, h = m.start(x), x
        for _ in range(layers):
            h = h + m.attn(m.norm(h), memory)
        return h

    return Net(body, start=nn.Linear(8, 8), attn=Attention(), norm=nn.LayerNorm(8)).double()


@pytest.mark.parametrize("model", [deep, cross])
def test_detection_looks_at_a_number_of_nodes_linear_in_the_graph(model):
    """Bytes kept by all scans; a scan from every site to the end of the graph would be quadratic."""
    kept = {}
    for layers in (5, 20):
        graph = graph_of(model(layers), X)
        found, _ = find_residuals(graph)
        assert len(found) == (2 * layers if model is deep else layers)
        kept[layers] = sum(map(len, graph._scans.values())) / len(graph.nodes)
    assert kept[20] <= 1.2 * kept[5]
