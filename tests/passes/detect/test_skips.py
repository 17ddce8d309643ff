from __future__ import annotations

import pytest
import torch
import torch.nn.functional as F
from torch import nn

from mhc_compile.passes.detect.skips import NoSkip, Skip, find_skip
from mhc_compile.passes.graph.sums import Sum, direct_sum
from mhc_compile.passes.plan.reasons import Reason
from tests.passes.graphs import graph_of
from tests.passes.layers import Net, mlps, tokens, vector

X = tokens()


def skip_of(body, front_end="symbolic", **layers):
    """The skip of the sum a body returns, with names for positions."""
    graph = graph_of(Net(body, norm=nn.LayerNorm(8), **mlps(2), **layers).double(), X, front_end=front_end)
    result = graph.index[graph.nodes[-1].all_input_nodes[0]]
    total = direct_sum(graph, result)
    assert isinstance(total, Sum)
    found = find_skip(graph, [o.node for o in total.operands])
    if isinstance(found, NoSkip):
        return found
    return graph.names[found.operand], graph.names[found.base], [graph.names[i] for i in found.lifts]


@pytest.mark.parametrize("body", [
    lambda m, x: x + m.f0(x), lambda m, x: m.f0(m.norm(x)) + x, lambda m, x: x - m.f0(x), lambda m, x: m.f0(x) - x,
])  # fmt: skip
def test_the_skip_is_the_operand_the_other_is_computed_from(body):
    assert skip_of(body) == ("x", "x", [])


@pytest.mark.parametrize(("body", "lifts"), [
    (lambda m, x: x * 0.5 + m.f0(x), ["mul"]), (lambda m, x: m.g * x + m.f0(x), ["mul"]),
    (lambda m, x: x.float().double() / 2 + m.f0(x), ["float_1", "double", "truediv"]),
    (lambda m, x: x.view(-1, 8) + m.f0(x).view(-1, 8), ["view"]),
    (lambda m, x: F.dropout(x, 0.0) + m.f0(x), ["dropout"]),
    (lambda m, x: x.transpose(1, 2).contiguous() + m.f0(x).transpose(1, 2), ["transpose", "contiguous"]),
    (lambda m, x: x * (x.new_ones(6, 1) * 0.5) + m.f0(x), ["mul_1"]),
    (lambda m, x: x[:, 1:] + m.f0(x)[:, 1:], ["getitem"]),
    (lambda m, x: x.narrow(1, 2, 3) + m.f0(x)[:, :3], ["narrow"]),
])  # fmt: skip
def test_linear_ops_on_the_skip_are_undone(body, lifts):
    assert skip_of(body, g=vector()) == (lifts[-1], "x", lifts)


def test_the_skip_is_the_last_value_both_sides_share():
    """`u` is an ancestor of the branch, and so is everything before it."""
    assert skip_of(lambda m, x: (u := m.f0(x)) + m.f1(u)) == ("f0_2", "f0_2", [])


def test_the_branch_may_start_at_the_lifted_value():
    assert skip_of(lambda m, x: (u := x * 0.5) + m.f0(u)) == ("mul", "mul", [])


@pytest.mark.parametrize(("body", "reason"), [
    (lambda m, x: m.q + m.f0(x), Reason.NOT_ANCESTOR), (lambda m, x: m.f0(x)[:1] + m.q[:1], Reason.NOT_ANCESTOR),
    (lambda m, x: (u := m.f0(x)) + u, Reason.NOT_ANCESTOR), (lambda m, x: x + torch.sin(x), Reason.NO_WEIGHT),
    (lambda m, x: x + m.g * torch.sin(x), Reason.NO_WEIGHT), (lambda m, x: x + m.norm(x), Reason.NO_WEIGHT),
    (lambda m, x: m.f1(x) + m.f0(x), Reason.PROJECTED_SHORTCUT),
    (lambda m, x: x.flip(1) + m.f0(x), Reason.RESHAPED_SKIP), (lambda m, x: m.norm(x) + m.f0(x), Reason.RESHAPED_SKIP),
    (lambda m, x: F.avg_pool1d(x, 1) + m.f0(x), Reason.RESHAPED_SKIP),
    (lambda m, x: x * torch.sigmoid(x) + m.f0(x), Reason.NOT_ANCESTOR),
    (lambda m, x: x * torch.sigmoid(m.f1(x)) + m.f0(x), Reason.PROJECTED_SHORTCUT),
])  # fmt: skip
def test_find_skip_rejects_sums_without_an_identity_path(body, reason):
    found = skip_of(body, g=vector(), q=nn.Parameter(torch.randn(2, 6, 8)))
    assert isinstance(found, NoSkip) and found.reason is reason


def test_the_weight_of_a_projected_shortcut_and_the_op_of_a_changed_one_are_named():
    assert skip_of(lambda m, x: m.f1(x) + m.f0(x)).detail.startswith("through f1")
    assert skip_of(lambda m, x: x.flip(1) + m.f0(x)).detail == "by flip"


def test_every_other_operand_must_come_from_the_skip():
    graph = graph_of(Net(lambda m, x: (x, m.f0(x), m.f1(x), m.q * 1.0), q=nn.Parameter(X), **mlps(2)).double(), X)
    x, a, b, q = (graph.index[n] for n in graph.nodes[-1].all_input_nodes)
    assert find_skip(graph, [a, x, b]) == Skip(x, x, ())
    assert isinstance(find_skip(graph, [x, a, q]), NoSkip)
