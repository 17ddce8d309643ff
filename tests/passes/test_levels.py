"""The level at which the sites lie: towers that read each other, nested networks, and what an exclusion gives back."""

from __future__ import annotations

import pytest
import torch
from torch import nn

from mhc_compile.errors import PatternError
from tests.passes.graphs import found, plan_of, reasons
from tests.passes.layers import Net, Net2, mlps, tokens

X = tokens()


def _egnn(m, x, y):
    for f, g, up in ((m.f0, m.f1, m.u0), (m.f2, m.f3, m.u1), (m.f4, m.f5, m.u2)):
        x = x + f(m.join(torch.cat([x, y], -1)))
        x = m.n(x + g(x))
        y = y + up(x)
    return x, y


def _nodes_and_edges(m, x, y):
    """Both as wide as each other, each with an own part in what it reads."""
    for f, g, up in ((m.f0, m.f1, m.u0), (m.f2, m.f3, m.u1), (m.f4, m.f5, m.u2)):
        x = m.n(x + f(m.join(torch.cat([x, y], -1))))
        x = m.n(x + g(x))
        y = m.n(y + up(m.join(torch.cat([y, x], -1))))
    return x, y


@pytest.mark.parametrize(("body", "width"), [(_egnn, 3), (_egnn, 8), (_nodes_and_edges, 8)])
def test_two_towers_that_read_each_other_keep_their_sites(body, width):
    layers = {f"u{i}": nn.Linear(8, width) for i in range(3)}
    layers |= {"n": nn.LayerNorm(8), "join": nn.Linear(8 + width, 8), **mlps(6)}
    (sites, _), plan = found(body, X, tokens(2, 6, width), kind=Net2, **layers)
    assert sites == 9 and max(len(segment.sites) for segment in plan.segments) == 6


def _doubly_residual(m, x):
    """N-BEATS: what is explained is subtracted, and the parts of the forecast are added up beside it."""
    forecast = torch.zeros_like(x)
    for f in (m.f0, m.f1, m.f2):
        h = f(x)
        x = x - m.u0(h)
        forecast = forecast + m.u1(h)
    return forecast, x


def _runge_kutta(m, x):
    """Points in between are no streams of their own."""
    for f in (m.f0, m.f1, m.f2):
        k1 = f(x)
        k2 = f(x + 0.5 * k1)
        k3 = f(x + 0.5 * k2)
        x = x + (k1 + 2 * k2 + 2 * k3 + f(x + k3)) / 6
    return x


def _passed_along_edges(m, x):
    """ProteinMPNN: nodes with their edges, which are gathered from nodes and updated in turn."""
    neighbours = torch.tensor([[1, 2], [0, 3], [1, 4], [5, 2], [3, 0], [1, 2]])
    edges = m.f3(x[:, neighbours])
    for f, g, h in ((m.f0, m.f1, m.u0), (m.f2, m.f4, m.u1), (m.f5, m.f6, m.u2)):
        x = m.n(x + f(m.join(torch.cat([edges, x[:, neighbours]], -1))).sum(2))
        x = m.n(x + g(x))
        edges = m.n(edges + h(m.join(torch.cat([edges, x[:, neighbours]], -1))))
    return x, edges


@pytest.mark.parametrize(("body", "sites", "segments"), [
    (_doubly_residual, 3, 1), (_runge_kutta, 3, 1), (_passed_along_edges, 9, 2),
])  # fmt: skip
def test_the_level_of_other_networks(body, sites, segments):
    layers = {**{f"u{i}": nn.Linear(8, 8) for i in range(3)}, "n": nn.LayerNorm(8), "join": nn.Linear(16, 8)}
    assert found(body, **layers, **mlps(7))[0] == (sites, segments)


def _nested(m, x):
    for o, i, f in ((m.f0, m.f1, m.f2), (m.f3, m.f4, m.f5)):
        h = i(x)
        x = x + o(h + f(h))
    return x


def test_an_exclusion_gives_back_what_it_displaced():
    model = Net(_nested, **mlps(6)).double()
    outer = [s.key for s in plan_of(model, X).sites]
    assert len(outer) == 2
    inner = plan_of(model, X, exclude=tuple(outer))
    assert [s.key for s in inner.sites] == ["f2", "f5"]
    only = plan_of(model, X, include=("f2",))
    assert [s.key for s in only.sites] == ["f2"]
    none = plan_of(model, X, exclude=("f*",))
    assert not none.sites and reasons(none).count("EXCLUDED") == 4


def test_a_glob_that_matches_nothing_anywhere_is_an_error():
    with pytest.raises(PatternError, match="g\\*"):
        plan_of(Net(_nested, **mlps(6)).double(), X, exclude=("g*",))


def _long_skips(m, x):
    """A U of one resolution."""
    before = [m.stem(x)]
    for f in (m.f0, m.f1, m.f2):
        before.append(before[-1] + f(before[-1]))
    x = before.pop()
    for f in (m.f3, m.f4, m.f5):
        x = x + before.pop()
        x = x + f(x)
    return x


def _every_other_state_again(m, x):
    x = m.stem(x)
    for f, g in ((m.f0, m.f1), (m.f2, m.f3), (m.f4, m.f5)):
        h = x + f(x)
        x = x + (h + g(h)) * 0.5
    return x


@pytest.mark.parametrize("body", [_long_skips, _every_other_state_again])
def test_a_sum_of_two_states_of_one_stream_costs_no_site_between_the_two(body):
    layers = {"stem": nn.Linear(8, 8), **mlps(6)}
    assert found(body, X, **layers)[0] == (6, 1)
    assert len(plan_of(Net(body, **layers).double(), X, nested="outer").sites) < 6
