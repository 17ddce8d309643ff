"""Writes to a part of a value, and writes through what shares its memory."""

from __future__ import annotations

import pytest
import torch

from mhc_compile.passes.graph.normalise import normalise, observed_mutations
from tests.passes.graph.test_normalise import X, check
from tests.passes.graphs import build, error, preserved, traced, trained
from tests.passes.layers import Net, mlps, vector

MASK = torch.arange(12).view(2, 6) % 5 == 0


def _place(index, value):
    def write(m, y, x):
        y[index] = value(m, y, x) if callable(value) else value
        return y

    return write


def _step(m, y, x):
    y[:, 1:3] += m.f2(x)[:, 1:3]
    return y


def _masked_by_itself(m, y, x):
    y[y < -1] = 0
    return y


WRITES = {
    "number": _place((slice(None), 0), 0),
    "number from the end": _place((..., -1), 2.0),
    "numbers": _place((0, 1), 0.5),
    "slice": _place((slice(None), slice(1, 3)), lambda m, y, x: x[:, 1:3]),
    "slice of channels": _place((..., slice(None, 3)), lambda m, y, x: x[..., :3]),
    "steps": _place((slice(None), slice(None, None, 2)), lambda m, y, x: m.f2(x)[:, ::2]),
    "number and slices": _place((0, slice(1, 3), slice(-4, None)), lambda m, y, x: 3 * y[0, 1:3, 4:]),
    "broadcast": _place((slice(None), slice(1, 3)), lambda m, y, x: m.g),
    "first axis": _place(0, lambda m, y, x: y[1]),
    "mask": _place(MASK, 0),
    "mask of all": _place(MASK[..., None].expand(2, 6, 8), -1.0),
    "mask of a batch": _place(MASK[:, 0], 1.0),
    "mask and a learned token": _place(MASK, lambda m, y, x: m.g),
    "mask that is computed": _masked_by_itself,
    "sum": _step,
}


def net(write):
    torch.manual_seed(0)
    body = lambda m, x: (u := write(m, x + m.f0(x), x)) + m.f1(u)
    return Net(body, g=vector(), **mlps(3)).double()


@pytest.mark.parametrize("name", WRITES)
def test_a_write_to_a_part_that_nobody_else_sees_becomes_a_value(name):
    model, mine = net(WRITES[name]), X.clone().requires_grad_()
    gm, theirs = normalise(traced(model, X, front_end="dynamo")), X.clone().requires_grad_()
    gm.recompile()
    assert not observed_mutations(gm)
    result, expected = gm(mine), model(theirs)
    assert error(result, expected) <= 1e-12
    both = [torch.autograd.grad(y.square().sum(), [at, *model.parameters()], allow_unused=True)
            for y, at in ((result, mine), (expected, theirs))]  # fmt: skip
    assert all(a is b is None or torch.allclose(a, b, rtol=1e-10, atol=1e-12) for a, b in zip(*both, strict=True))


@pytest.mark.parametrize("name", WRITES)
def test_streams_pass_a_write_to_a_part(name):
    difference, plan = preserved(net(WRITES[name]), X, front_end="dynamo")
    assert difference < 1e-12 and {"f0", "f1"} <= {site.key for site in plan.sites}
    moved, _ = trained(net(WRITES[name]), X, front_end="dynamo")
    assert moved < 1e-12
    assert sum(len(part.adds) for part in (*plan.sites, *plan.rejected)) == plan.float_adds


def _list(m, x):
    y = m.f(x)
    y[:, [0, 2]] = 1.0
    return y


def _picked(m, x):
    y = m.f(x)
    y[MASK] = x[MASK]
    return y


def _other_dtype(m, x):
    y = m.f(x)
    y[:, 0] = x[:, 1].float()
    return y


def _seen(m, x):
    y = m.f(x)
    view = y.view(-1, 8)
    y[:, 0] = 0.0
    return view * 2.0


@pytest.mark.parametrize("body", [_list, _picked, _other_dtype, _seen])
def test_a_write_that_says_too_little_or_is_seen_stays(body):
    check(body, remaining=1)


def test_observed_mutations_are_all_names_of_the_written_memory():
    def make(graph, x):
        y = graph.call_function(torch.relu, (x,))
        view = graph.call_method("view", (y, -1))
        graph.call_method("add_", (view, 1.0))
        other = graph.call_function(torch.sin, (x,))
        return y, view, other

    gm = normalise(build(make, x=X))
    assert {n.name for n in observed_mutations(gm)} == {"relu", "view", "add_"}


@pytest.mark.parametrize("view", [
    lambda y: y.data,
    lambda y: y.cpu(),
    lambda y: y.mH,
    lambda y: y.ravel(),
    lambda y: y.conj(),
    lambda y: torch.positive(y),
    lambda y: torch.atleast_3d(y),
    lambda y: torch.broadcast_tensors(y.new_ones(1), y)[1],
    lambda y: y.unsafe_chunk(2, -1)[1],
    lambda y: torch.hsplit(y, 2)[0],
    lambda y: torch.view_as_real(torch.view_as_complex(y.unflatten(-1, (-1, 2)))),
])  # fmt: skip
def test_a_write_through_any_view_is_seen_by_what_it_views(view):
    def body(m, x):
        y = m.f(x)
        with torch.no_grad():
            view(y).mul_(2.0)
        return x + y

    check(body, remaining=1)


def _written_past_gradients(m, x):
    x, h = x + m.f0(x), m.f1(x)
    with torch.no_grad():
        h[:, 0] = 0
        h.mul_(0.5)
    return x + h


def test_a_write_without_gradients_leaves_a_value_its_own():
    model = Net(_written_past_gradients, **mlps(2)).double()
    gm = normalise(traced(model, X, front_end="dynamo"))
    gm(X).sum().backward()
    found = {name: parameter.grad for name, parameter in gm.named_parameters()}
    gm.zero_grad()
    model(X).sum().backward()
    assert found and all(gradient is not None for gradient in found.values())


def test_a_negation_that_writes_is_no_sign():
    def body(m, x):
        y, g = x + m.f0(x), m.f1(x)
        view = g.view(-1)
        return y - g.neg_() + view.view(x.shape)

    difference, _ = preserved(Net(body, **mlps(2)).double(), X, front_end="dynamo")
    assert difference < 1e-12
