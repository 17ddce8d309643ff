from __future__ import annotations

import pytest
import torch
from torch import fx, nn

from mhc_compile.passes.detect.residuals import find_residuals
from mhc_compile.passes.detect.segments import asks_size, build_chains
from tests.passes.graphs import graph_of
from tests.passes.layers import Net, mlps, tokens

X = tokens()


def chains(body, **layers):
    """Per segment `(entry, number of sites, lifts, linear, {readout: users})` by name."""
    model = Net(body, n=nn.LayerNorm(8), **mlps(4), **layers).double()
    graph = graph_of(model, X)
    found, _ = find_residuals(graph)
    return [(graph.names[c.entry], len(c.sites), [graph.names[i] for i in sorted(c.lifts)], c.linear,
             {graph.names[i]: [u.name for u in users] for i, users in c.readouts.items()})
            for c in build_chains(graph, found)]  # fmt: skip


def test_a_chain_has_one_entry_and_one_readout():
    assert chains(lambda m, x: m.n((u := x + m.f0(x)) + m.f1(u))) == [("x", 2, [], True, {"add_1": ["n"]})]


def test_collected_hidden_states_are_readouts_and_do_not_cut():
    def body(m, x):
        u = x + m.f0(x)
        v = u + m.f1(u)
        return m.n(v), [x, u, v]

    assert chains(body) == [("x", 2, [], True, {"add": ["output"], "add_1": ["n", "output"]})]


def test_two_towers_are_one_segment_with_a_readout_each():
    def body(m, x):
        x = x + m.f0(x)
        return x + m.f1(x), x + m.f2(x)

    assert chains(body) == [("x", 3, [], True, {"add_1": ["output"], "add_2": ["output"]})]


def test_lifted_ops_decide_between_the_two_cases():
    def body(op):
        return lambda m, x: (u := op(m, x + m.f0(x))) + m.f1(u)

    assert chains(body(lambda m, x: x * 0.5)) == [("x", 2, ["mul"], True, {"add_1": ["output"]})]
    assert chains(body(lambda m, x: m.n(x))) == [("x", 2, ["n"], False, {"add_1": ["output"]})]


def test_an_op_behind_the_last_site_or_before_the_first_does_not_count():
    assert chains(lambda m, x: m.n((u := m.n(x)) + m.f0(u))) == [("n", 1, [], True, {"add": ["n_1"]})]


def test_a_lift_on_the_skip_at_the_entry_is_done_to_one_tensor():
    body = lambda m, x: (u := x * 0.5 + m.f0(x)) * 0.5 + m.f1(u)
    assert chains(body) == [("x", 2, ["mul_1"], True, {"add_1": ["output"]})]


def test_what_ends_the_stream_path_starts_a_new_segment():
    body = lambda m, x: (u := (x + m.f0(x)) @ torch.eye(8, dtype=x.dtype)) + m.f1(u)
    first, second = chains(body)
    assert first == ("x", 1, [], True, {"add": ["matmul"]})
    assert second == ("matmul", 1, [], True, {"add_1": ["output"]})


def test_a_value_used_by_a_later_branch_is_read_out_there():
    def body(m, x):
        u = x + m.f0(x)
        v = u + m.f1(u)
        return v + m.f2(v * torch.sigmoid(u))

    ((entry, count, _, _, readouts),) = chains(body)
    assert (entry, count) == ("x", 3) and readouts == {"add": ["sigmoid"], "add_2": ["output"]}


def test_a_lifted_value_used_elsewhere_is_a_readout():
    def body(m, x):
        h = m.n(x + m.f0(x))
        return h + m.f1(h), h

    assert chains(body) == [("x", 2, ["n"], False, {"n": ["output"], "add_1": ["output"]})]


def test_asking_for_the_size_is_no_readout():
    def body(m, x):
        u = x + m.f0(x)
        return (u + m.f1(u)).view(u.size(0), u.shape[1], -1)

    assert chains(body) == [("x", 2, [], True, {"add_1": ["view"]})]


@pytest.mark.parametrize(("target", "args", "expected"), [
    ("size", (), True), ("dim", (), True), (getattr, ("shape",), True), (getattr, ("ndim",), True),
    (getattr, ("dtype",), False), (getattr, ("device",), False), (torch.zeros_like, (), False), ("sum", (), False),
    (torch.ops.aten.sym_size.int, (0,), True),
])  # fmt: skip
def test_asks_size(target, args, expected):
    graph = fx.Graph()
    op = "call_method" if isinstance(target, str) else "call_function"
    assert asks_size(graph.create_node(op, target, (graph.placeholder("x"), *args))) is expected


def test_no_sites_no_segments():
    assert chains(lambda m, x: m.f0(x)) == []
