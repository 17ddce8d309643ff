from __future__ import annotations

import pytest
import torch
import torch.nn.functional as F
from torch import nn

from mhc_compile.passes.detect.residuals import find_residuals
from mhc_compile.passes.plan.reasons import Reason
from tests.passes.graphs import graph_of
from tests.passes.layers import Mlp, Net, mlps, tokens

X = tokens()


def decide(body, front_end="dynamo", **layers):
    """Candidates as `(number of adds, number of branches)`, reasons, and the graph."""
    torch.manual_seed(0)
    layers = {
        "even": nn.Conv1d(8, 8, 4, padding=2),
        "stem": nn.Linear(8, 8),
        "wide": nn.Linear(8, 16),
        **mlps(3),
        **layers,
    }
    graph = graph_of(Net(body, **layers).double(), X.clone(), front_end=front_end)
    found, rejected = find_residuals(graph)
    return [(len(c.total.adds), len(c.branches)) for c in found], [r.reason for r in rejected]


def only(body, **layers):
    """The reason of the one add that is no candidate."""
    found, (reason,) = decide(body, **layers)
    assert not found
    return reason


@pytest.mark.parametrize("body", [
    lambda m, x: x + m.f0(x) + m.f1(x), lambda m, x: x + (m.f0(x) + m.f1(x)), lambda m, x: m.f0(x) + m.f1(x) + x,
    lambda m, x: m.f0(x) + (x + m.f1(x)), lambda m, x: sum([x, m.f0(x), m.f1(x)]), lambda m, x: x - m.f0(x) - m.f1(x),
])  # fmt: skip
@pytest.mark.parametrize("front_end", ["dynamo", "symbolic"])
def test_parallel_branches_are_one_site_however_they_are_bracketed(body, front_end):
    assert decide(body, front_end) == ([(2, 2)], [])


def test_a_residual_in_a_longer_sum_stays_one_of_its_own():
    """`(x + f(x)) + g(x + f(x))` are two sites, though the inner sum is a term of the outer one."""
    assert decide(lambda m, x: (u := x + m.f0(x)) + m.f1(u)) == ([(1, 1), (1, 1)], [])


def test_an_inner_sum_that_is_used_twice_is_not_folded():
    found, reasons = decide(lambda m, x: ((y := m.f0(x) + m.f1(x)) + x) * y)
    assert found == [(1, 1)] and reasons == [Reason.PROJECTED_SHORTCUT]


def test_every_float_add_is_in_one_candidate_or_one_rejection():
    def body(m, x):
        x = x + m.f0(x) + m.f1(x) * (1.0 + x) + x[:, :1]
        return m.f2(x) + m.f2.__getitem__(0)(x).mean(-1, keepdim=True) + 1.0

    graph = graph_of(Net(body, **mlps(3)).double(), X)
    found, rejected = find_residuals(graph)
    adds = [i for part in found for i in part.total.adds] + [i for part in rejected for i in part.adds]
    assert sorted(adds) == sorted(i for i, n in enumerate(graph.nodes) if n.name.startswith("add"))


@pytest.mark.parametrize(("body", "reason"), [
    (lambda m, x: m.f0(x) - x, Reason.NEGATED_SKIP), (lambda m, x: m.f0(x) + m.f1(x) - x, Reason.NEGATED_SKIP),
    (lambda m, x: x + 2.0, Reason.SCALAR), (lambda m, x: x + m.f0(x)[:, :1], Reason.BROADCAST),
    (lambda m, x: x + m.even(x.transpose(1, 2))[:, :, :-1].relu().transpose(1, 2), Reason.SLICED),
    (lambda m, x: x + torch.tanh(x), Reason.NO_WEIGHT), (lambda m, x: m.stem(x) + m.f0(x), Reason.PROJECTED_SHORTCUT),
])  # fmt: skip
def test_reasons(body, reason):
    assert only(body) is reason


@pytest.mark.parametrize("body", [
    lambda m, x: x + m.f0(F.pad(x, (0, 0, 1, 0)))[:, 1:], lambda m, x: x + m.f0(x.repeat(1, 2, 1))[:, :6],
    lambda m, x: x + m.f0(x.repeat(1, 2, 1)).narrow(1, 0, 6),
    lambda m, x: x + m.f0(x[:, :3].repeat(1, 2, 1)),
    lambda m, x: x + m.wide(x)[..., :1] * m.f0(x),
    lambda m, x: x + m.f1(m.f0(x.repeat(1, 2, 1))[:, :6]),
    lambda m, x: x + m.wide(x).chunk(2, -1)[0],
    lambda m, x: x + m.f0(x)[:],
    lambda m, x: x + m.f0(x)[:, None].squeeze(1),
])  # fmt: skip
def test_what_a_branch_cuts_is_its_own_affair(body):
    assert decide(body)[0] == [(1, 1)]


def test_a_gated_unit_written_with_slices_of_the_channels_is_a_branch():
    assert decide(lambda m, x: x + (h := m.wide(x))[..., :8] * torch.sigmoid(h[..., 8:])) == ([(1, 1)], [])


def test_a_result_nobody_uses_is_dead():
    def body(m, x):
        unused = x + m.f0(x)  # noqa: F841
        return m.f1(x)

    assert only(body) is Reason.DEAD


def test_an_embedding_added_in_every_layer_is_not_the_stream():
    def body(m, x):
        position = m.table * 1.0
        h = m.stem(position)
        for f in (m.f0, m.f1):
            h = h + f(torch.tanh(h + position) * x)
        return h

    table = nn.Parameter(torch.randn(2, 6, 8))
    found, reasons = decide(body, table=table)
    assert found == [(1, 1)] * 2 and reasons.count(Reason.INPUT_INDEPENDENT) == 2


@pytest.mark.parametrize(("levels", "reason"), [(4, None), (5, Reason.INJECTED)])
def test_a_value_that_is_added_in_five_layers_is_no_skip(levels, reason):
    def body(m, x):
        h = x
        for _ in range(levels):
            h = x + m.f0(h)
        return h

    found, reasons = decide(body)
    assert (len(found), reasons) == ((levels, []) if reason is None else (0, [reason] * levels))


def test_a_stream_may_start_at_learned_queries():
    found, reasons = decide(lambda m, x: (h := m.table * 1.0) + m.f0(h) * x, table=nn.Parameter(torch.randn(2, 6, 8)))
    assert found == [(1, 1)] and not reasons


def _view_is_seen(m, x):
    x = m.stem(x)
    view = x[:, 0]
    x += m.f0(x)
    return x, view


def _write_through_view(m, x):
    x = m.stem(x)
    x.view(-1, 8).add_(m.f0(x).view(-1, 8))
    return x


def _input_is_written(m, x):
    x += m.f0(x)
    return x


@pytest.mark.parametrize("body", [_view_is_seen, _write_through_view, _input_is_written])
def test_a_write_that_is_seen_elsewhere_is_rejected(body):
    assert only(body) is Reason.MUTATED


def test_a_write_on_the_stream_after_a_site_rejects_what_reads_it():
    def body(m, x):
        u = m.stem(x) + m.f0(m.stem(x))
        u[:, [0]] = 0.0
        return u + m.f1(u)

    found, reasons = decide(body)
    assert not found and reasons[-1] is Reason.MUTATED


def test_a_write_on_what_the_skip_is_lifted_to_is_rejected():
    def body(m, x):
        u = (x := m.stem(x)) * 0.5
        y = m.f0(x)
        u[:, [0]] = 0.0
        return u + y

    assert only(body) is Reason.MUTATED


def test_a_half_moved_value_read_by_the_branch_is_rejected():
    body = lambda m, x: (u := x.transpose(1, 2)).contiguous() + torch.sigmoid(u) * m.f0(x).transpose(1, 2)
    assert only(body) is Reason.RESHAPED_SKIP


def test_branch_nodes_lie_between_the_skip_and_the_branch():
    graph = graph_of(Net(lambda m, x: x + m.f(m.n(x)) * x.mean(), f=Mlp(), n=nn.LayerNorm(8)).double(), X)
    (site,), _ = find_residuals(graph)
    assert [graph.names[i] for i in sorted(site.branch_nodes)] == ["n", "f_0", "f_1", "f_2", "mean", "mul"]
