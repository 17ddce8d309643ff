from __future__ import annotations

import pytest
import torch
from torch import nn

from mhc_compile.passes.detect.chains import resolve_nesting
from mhc_compile.passes.detect.links import find_links
from mhc_compile.passes.detect.residuals import find_mixers, find_residuals
from tests.passes.graphs import graph_of, plan_of, reasons
from tests.passes.layers import Net, Net2, conv, images, mlps, tokens

X = tokens()


def linked(body, x=X, front_end="symbolic", **layers):
    """`(graph, candidates, {index of a site: (index of its source, names on the path)})`."""
    layers = {"n": nn.LayerNorm(8), **mlps(4), **layers}
    graph = graph_of(Net(body, **layers).double().eval(), x, front_end=front_end)
    found, _ = find_residuals(graph)
    order = {c.add: i for i, c in enumerate(found)}
    links = {order[add]: (order[link.source], [graph.names[i] for i in link.path])
             for add, link in find_links(graph, found).items()}  # fmt: skip
    return graph, found, links


def links_of(body, *args, **layers):
    return linked(body, *args, **layers)[2]


def test_sites_in_a_row_are_linked_directly():
    body = lambda m, x: (v := (u := x + m.f0(x)) + m.f1(u)) + m.f2(v)
    assert links_of(body) == {1: (0, []), 2: (1, [])}


def between(op):
    return lambda m, x: (u := op(m, x + m.f0(x))) + m.f1(u)


@pytest.mark.parametrize(("op", "path"), [
    (lambda m, x: m.n(x), ["n"]), (lambda m, x: torch.relu(x) * 0.5, ["relu", "mul"]),
    (lambda m, x: x.float().double(), ["float_1", "double"]), (lambda m, x: x + m.shift, ["add_1"]),
    (lambda m, x: x * torch.rsqrt(x.pow(2).mean(-1, True) + 1.0), ["pow_1", "mean", "add_1", "rsqrt", "mul"]),
    (lambda m, x: torch.softmax(x, -1), ["softmax"]), (lambda m, x: x.flip(1), ["flip"]),
    (lambda m, x: x.cumsum(1), ["cumsum"]), (lambda m, x: x / x.std(-1, keepdim=True), ["std", "truediv"]),
    (lambda m, x: torch.cat((x[:, 1:], x[:, :1]), 1), ["getitem", "getitem_1", "cat"]),
    (lambda m, x: x * m.rows[1], ["mul"]), (lambda m, x: m.rows[0] * x + m.rows[1][:, None].t(), ["mul", "add_1"]),
    (lambda m, x: x * (m.shift > 0)[None, None].to(x.dtype), ["mul"]),
])  # fmt: skip
def test_liftable_ops_between_two_sites_are_the_path(op, path):
    layers = {"shift": nn.Parameter(torch.ones(8)), "rows": nn.Parameter(torch.ones(2, 8))}
    assert links_of(between(op), **layers) == {1: (0, path)}


@pytest.mark.parametrize("op", [
    lambda m, x: m.f2(x), lambda m, x: x * torch.sigmoid(m.f2(x)), lambda m, x: x @ torch.eye(8, dtype=x.dtype),
    lambda m, x: torch.nn.functional.avg_pool1d(x, 1), lambda m, x: x.sort(1)[0],
])  # fmt: skip
def test_find_links_rejects_paths_with_anything_else(op):
    assert links_of(between(op)) == {}


def test_batch_norm_between_two_sites_ends_the_chain():
    body = lambda m, x: (u := m.bn(x + m.c0(x))) + m.c1(u)
    assert links_of(body, images(), bn=nn.BatchNorm2d(8), c0=conv(), c1=conv()) == {}


def test_two_towers_share_their_trunk():
    def body(m, x):
        x = x + m.f0(x)
        return x + m.f1(x), (h := m.n(x)) + m.f2(h)

    assert links_of(body) == {1: (0, []), 2: (0, ["n"])}


def test_what_is_computed_earlier_may_be_multiplied_on():
    def body(m, x):
        mask = torch.sigmoid(m.f2(x))
        return (u := (x + m.f0(x)) * mask) + m.f1(u)

    assert links_of(body) == {1: (0, ["mul"])}


def kept(body, how, **layers):
    graph, found, _ = linked(body, **layers)
    chosen, dropped = resolve_nesting(graph, found, how)
    assert len(chosen) + len(dropped) == len(found)
    assert not {c.add for c in chosen} & set(dropped) and set(dropped.values()) <= set(chosen)
    return [found.index(c) for c in chosen]


def long_skip(m, x):
    return x + m.f3((u := x + m.f0(x)) + m.f1(u))  # sites 0 and 1 inside, 2 around


def one_inside(m, x):
    return x + m.f1((h := m.f0(x)) + m.f2(h))  # site 0 inside, 1 around


def one_of_many(m, x):
    """The outer chain is longer than the one inside its first branch."""
    x = x + m.f1((h := m.f0(x)) + m.f2(h))
    return x + m.f3(x)


@pytest.mark.parametrize(("body", "longest", "outer", "inner"), [
    (long_skip, [0, 1], [2], [0, 1]), (one_inside, [1], [1], [0]), (one_of_many, [1, 2], [1, 2], [0, 2]),
])  # fmt: skip
def test_one_level_of_nested_sites_is_kept(body, longest, outer, inner):
    assert [kept(body, how) for how in ("longest", "outer", "inner")] == [longest, outer, inner]


def test_a_chain_goes_on_through_sums_without_a_weight():
    """The sites inside are four in one chain, those with the long skip two: none of them would be long enough alone."""

    def body(m, x):
        h = x = x + m.f0(x)
        for f in (m.f1, m.f2, m.f3):
            h = m.n(h + torch.fft.fft(h, dim=1).real)
            h = m.n(h + f(h))
        return x + h

    graph = graph_of(Net(body, n=nn.LayerNorm(8), **mlps(4)).double().eval(), X)
    found, rejected = find_residuals(graph)
    chosen, (displaced,) = resolve_nesting(graph, found, "longest", mixers=find_mixers(graph, rejected))
    assert chosen == found[:4] and displaced == found[4].add
    assert [c.add for c in resolve_nesting(graph, found, "longest")[0]] == [found[0].add, found[4].add]


def test_sites_that_are_not_nested_are_all_kept():
    graph, found, _ = linked(lambda m, x: (u := x + m.f0(x)) + m.f1(u))
    assert resolve_nesting(graph, found, "longest") == (found, {})


def test_two_skips_from_one_value_conflict():
    """`x -> a -> b` with `a + f(b)`: the last skip goes round b's site."""

    def body(m, x):
        a = x + m.f0(x)
        b = a + m.f1(a)
        return a + m.f2(b)

    assert len(kept(body, "longest")) == 2 and kept(body, "inner") == [0, 1]


def test_a_site_of_several_branches_conflicts_with_the_one_inside_a_branch():
    assert kept(lambda m, x: x + m.f0(x) + m.f1((h := m.f2(x)) + m.f3(h)), "inner") == [0]


def test_what_is_all_that_a_site_adds_lies_inside_it_though_it_began_elsewhere():
    """`x + h`, where h is the stream of another tower, is no layer of its own beside the last one of that tower."""

    def body(m, x, y):
        y = y + m.f0(y)
        h = x * y
        return x + (h + m.f1(h))

    plan = plan_of(Net2(body, **mlps(2)).double().eval(), X, X.clone())
    assert [site.weights[0][:2] for site in plan.sites] == ["f0", "f1"] and "NESTED" in reasons(plan)


def test_what_a_stream_has_been_inside_a_branch_goes_with_its_end_there():
    """`h` goes on with the stream of `y`; its last sum is all that the long skip adds, and the first is not alone."""

    def body(m, x, y):
        y = y + m.f0(y)
        h = x * y
        h = h + m.f1(h)
        x = x + (h + m.f2(h))
        for f in (m.f3, m.f4):
            x = x + f(x)
        return x

    plan = plan_of(Net2(body, **mlps(5)).double().eval(), X, X.clone())
    assert [site.weights[0][:2] for site in plan.sites] == ["f0", "f1", "f3", "f4"]
    assert reasons(plan).count("NESTED") == 2
