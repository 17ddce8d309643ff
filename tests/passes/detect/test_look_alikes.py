"""Values that are added in every layer, and streams that begin with a learned value: what tells them apart."""

from __future__ import annotations

import pytest
import torch
from torch import nn

from mhc_compile.passes.plan.reasons import Reason
from tests.passes.graphs import found, reasons
from tests.passes.layers import Attention, Net2, mlps, tokens

X = tokens()
MEMORY = tokens(2, 6, 8)


BIASES = {
    "a learned table": lambda m, x: m.table[m.positions].permute(2, 0, 1).unsqueeze(0).expand(2, -1, -1, -1),
    "a table with the mask in it": lambda m, x: m.scores + x[:, None, :, :6],
    "made of pairs": lambda m, x: m.pairs(x[:, :, None] - x[:, None]).permute(0, 3, 1, 2),
    "made of pairs, nonlinear": lambda m, x: torch.tanh(m.pairs(x[:, :, None] * x[:, None])).permute(0, 3, 1, 2),
}


@pytest.mark.parametrize("layers", [2, 3])
@pytest.mark.parametrize("name", BIASES)
def test_a_bias_of_the_scores_of_every_layer_is_no_stream(name, layers):
    def body(m, x):
        bias = BIASES[name](m, x)
        for attention, f in ((m.a0, m.f0), (m.a1, m.f1), (m.a2, m.f2))[:layers]:
            x = m.n(x + attention(x, bias=bias))
            x = m.n(x + f(x))
        return x

    parts = {**{f"a{i}": Attention() for i in range(3)}, "pairs": nn.Linear(8, 2), "n": nn.LayerNorm(8)}
    tables = {"table": nn.Parameter(torch.randn(6, 2)), "scores": nn.Parameter(torch.randn(2, 2, 6, 6))}
    counts, plan = found(
        body, positions=(torch.arange(6)[:, None] - torch.arange(6)).abs(), **parts, **tables, **mlps(3)
    )
    assert counts == (2 * layers, 1)
    given = [r for r in plan.rejected if r.reason in (Reason.INJECTED, Reason.INPUT_INDEPENDENT)]
    assert len(given) == layers - 1


@pytest.mark.parametrize("layers", [2, 3])
def test_a_position_of_data_that_is_added_before_every_layer_is_no_skip(layers):
    def body(m, x, y):
        for f in (m.f0, m.f1, m.f2)[:layers]:
            x = x + y
            x = m.n(x + f(x))
        return x

    counts, plan = found(body, X, MEMORY, kind=Net2, n=nn.LayerNorm(8), **mlps(3))
    assert counts == (layers, 1)
    assert reasons(plan).count("INJECTED") == layers - 1


def test_a_bias_of_layers_without_residuals_is_none():
    def body(m, x):
        bias = 0.5 * m.scores
        return m.a1(m.a0(x, bias=bias), bias=bias)

    layers = {"a0": Attention(), "a1": Attention(), "scores": nn.Parameter(torch.randn(2, 2, 6, 6))}
    (sites, _), plan = found(body, **layers)
    assert not sites and "INJECTED" in reasons(plan)


QUERIES = {
    "of a resampler": lambda m, q, x: m.a0(q, x),
    "with a position for the queries": lambda m, q, x: m.a0(q + m.p, x),
    "that read themselves first": lambda m, q, x: m.a0(m.a1(q), x),
    "that read the input beside themselves": lambda m, q, x: m.a0(q, torch.cat([q, x], 1)),
}


@pytest.mark.parametrize("layers", [1, 2])
@pytest.mark.parametrize("name", QUERIES)
def test_learned_queries_are_a_stream_from_the_first_layer(name, layers):
    def body(m, x):
        q = m.q * 1.0
        for f in (m.f0, m.f1)[:layers]:
            q = q + QUERIES[name](m, q, x)
            q = m.n(q + f(q))
        return q

    weights = {key: nn.Parameter(torch.randn(2, 6, 8)) for key in "qp"}
    counts, _ = found(body, n=nn.LayerNorm(8), a0=Attention(), a1=Attention(), **weights, **mlps(2))
    assert counts == (2 * layers, 1)


def test_a_single_read_by_learned_queries_is_a_site():
    body = lambda m, x: (q := m.q * 1.0) + m.a(q, x)
    assert found(body, q=nn.Parameter(torch.randn(2, 6, 8)), a=Attention())[0] == (1, 1)


def test_a_position_beside_the_first_read_of_a_stream_costs_no_site():
    def body(m, x, y):
        x = x + m.a0(x + y)
        return x

    assert found(body, X, MEMORY, kind=Net2, a0=Attention())[0] == (1, 1)


DECOMPOSED = {
    "a moving average": lambda x: nn.functional.avg_pool1d(x.transpose(1, 2), 3, 1, 1).transpose(1, 2),
    "what the neighbour has": lambda x: x.roll(1, 1),
}


@pytest.mark.parametrize("name", DECOMPOSED)
def test_a_part_taken_away_from_the_stream_is_no_branch(name):
    def body(m, x):
        for f in (m.f0, m.f1):
            x = x + f(x)
            x = x - DECOMPOSED[name](x)
        return x

    (sites, _), plan = found(body, **mlps(2))
    assert sites == 2 and reasons(plan).count("NO_WEIGHT") >= 2


READOUTS = {
    "mean of the last four": lambda states: torch.stack(states[-4:]).mean(0),
    "sum of the last three": lambda states: torch.stack(states[-3:]).sum(0),
    "one after the other": lambda states: states[-4] + states[-3] + states[-2] + states[-1],
    "Python's sum": lambda states: sum(states[-4:]),
    "scaled": lambda states: 0.5 * states[-3] + 0.25 * states[-2] + 0.25 * states[-1],
}


@pytest.mark.parametrize("name", READOUTS)
def test_a_readout_of_the_last_layers_costs_no_site(name):
    def body(m, x):
        states = []
        for f in (m.f0, m.f1, m.f2, m.f3, m.f4):
            x = x + f(x)
            states.append(x)
        return READOUTS[name](states)

    (sites, segments), plan = found(body, **mlps(5))
    assert (sites, segments) == (5, 1) and "COLLECTED" in reasons(plan)


def test_a_sum_over_parallel_branches_that_are_residuals_inside_is_a_site():
    def body(m, x):
        a, b = m.f0(x), m.f1(x)
        return x + (a + m.f2(a)) + (b + m.f3(b))

    _, plan = found(body, **mlps(4))
    assert "COLLECTED" not in reasons(plan) and len(plan.sites) >= 1
