from __future__ import annotations

import copy
import operator

import pytest
import torch
import torch.nn.functional as F
from torch import nn

from mhc_compile.passes.graph.normalise import normalise, observed_mutations
from mhc_compile.passes.graph.op_kinds import Kind, canonical_name, is_inplace, kind_of
from mhc_compile.passes.graph.values import flat_nodes
from tests.passes.graphs import build, error, traced
from tests.passes.layers import Mlp, Net, tokens

X = tokens()


def names(gm):
    return [canonical_name(n) for n in gm.graph.nodes if n.op.startswith("call")]


def writes(gm):
    return [n for n in gm.graph.nodes if is_inplace(n)]


def check(body, front_end="dynamo", remaining=0, **layers):
    """The normalised graph computes the same, also on the inputs it writes to, and has `remaining` writes left."""
    torch.manual_seed(0)
    model = Net(body, f=Mlp(), **layers).double()
    mine, theirs = X.clone(), X.clone()
    expected = model(theirs)
    gm = normalise(traced(model, X.clone(), front_end=front_end))
    gm.recompile()
    assert len(writes(gm)) == remaining
    assert error(gm(mine), expected) <= 1e-12
    assert torch.equal(mine, theirs)
    return gm


@pytest.mark.parametrize("front_end", ["dynamo", "export"])
@pytest.mark.parametrize("body", [
    lambda m, x: m.f(x).add_(x).mul_(2.0),
    lambda m, x: F.relu(m.f(x), inplace=True),
    lambda m, x: F.dropout(m.f(x), 0.0, False, True),
    lambda m, x: F.leaky_relu(m.f(x), 0.2, True),
    lambda m, x: torch.relu_(m.f(x)) + x,
    lambda m, x: m.f(x).clamp_(-1, 1).masked_fill_(x > 0, 2.0),
    lambda m, x: m.f(x).transpose_(1, 2).unsqueeze_(0),
])  # fmt: skip
def test_writes_nobody_can_see_become_functional(body, front_end):
    check(body, front_end)


def test_later_uses_see_the_new_value_and_earlier_ones_the_old():
    def body(m, x):
        y = m.f(x)
        before = y.sin()
        y += x
        return y * before, y

    gm = check(body)
    add = next(n for n in gm.graph.nodes if kind_of(n) is Kind.ADD)
    assert "sin" not in {canonical_name(u) for u in add.users}


def test_views_taken_after_a_write_are_no_obstacle():
    check(lambda m, x: (y := m.f(x)).add_(x).view(-1, 8) * y.view(-1, 8))


def _view_before(m, x):
    y = m.f(x)
    view = y[:, 0]
    y += x
    return y, view


def _written_through_view(m, x):
    y = m.f(x)
    y.view(-1, 8).mul_(2.0)
    return y


def _rest_through_view(m, x):
    y = m.f(x)
    view = y.view(-1, 8)
    y %= 0.5
    return y, view


def _written_in_a_list(m, x):
    y = m.f(x)
    torch._foreach_mul_([y, y.view(-1, 8)], 2.0)
    return y


def _own_input(m, x):
    x.add_(m.f(x))
    return x * 2.0


def _item(m, x):
    y = m.f(x)
    y[:, [0]] = 0.0
    return y + x


def _buffer(m, x):
    m.count.add_(1.0)
    return m.f(x) * m.count


@pytest.mark.parametrize("body", [_view_before, _written_through_view, _rest_through_view, _own_input, _item,
                                  _written_in_a_list])  # fmt: skip
def test_a_write_that_is_seen_elsewhere_is_left_alone(body):
    gm = check(body, remaining=1)
    assert {*flat_nodes(writes(gm)[0].args[:1])} <= observed_mutations(gm)


def test_a_write_through_a_view_of_an_input_reaches_it():
    def body(m, x):
        y = m.f(x)
        x.view(-1, 8).mul_(2.0)  # nothing else looks at x any more, but for the caller
        return y

    check(body, remaining=1)


def test_a_write_through_a_view_of_a_buffer_reaches_it():
    def body(m, x):
        m.count.view(1).add_(1.0)
        return m.f(x)

    model = Net(body, f=Mlp(), count=nn.Buffer(torch.zeros(1))).double()
    gm = normalise(traced(model, X, front_end="dynamo"))
    assert len(writes(gm)) == 1


def test_a_write_to_a_buffer_is_left_alone():
    model = Net(_buffer, f=Mlp(), count=nn.Buffer(torch.zeros(1))).double()
    gm = normalise(traced(model, X, front_end="dynamo"))
    assert len(writes(gm)) == 1


@pytest.mark.parametrize("front_end", ["symbolic", "export"])
@pytest.mark.parametrize("fill", [
    lambda y: y.zero_(), lambda y: y.fill_(2.0), lambda y: y.copy_(torch.ones_like(y)), lambda y: y.uniform_(1.0, 1.0),
    lambda y: y.normal_(1.0, 0.0), lambda y: y.bernoulli_(1.0), lambda y: y.fill_(1.0).tril_(),
])  # fmt: skip
def test_writes_without_a_functional_form_of_the_same_arguments_still_compute_the_same(fill, front_end):
    model = Net(lambda m, x: m.f(x) + fill(torch.empty_like(x)), f=Mlp()).double()
    gm = normalise(traced(model, X, front_end=front_end))
    gm.recompile()
    assert error(gm(X), model(X)) <= 1e-12


def test_an_in_place_op_keeps_the_dtype_of_its_operand():
    gm = check(lambda m, x: m.f(x).float().add_(x).double())
    assert "to" in names(gm)


def test_alpha_is_spelled_out():
    gm = check(lambda m, x: torch.add(x, m.f(x), alpha=0.5) - torch.sub(x, m.f(x), alpha=2))
    assert not any("alpha" in n.kwargs for n in gm.graph.nodes)
    assert names(gm).count("mul") >= 2


def test_addcmul_is_spelled_out_with_its_factor():
    assert "addcmul" not in names(check(lambda m, x: torch.addcmul(x, m.f(x), x), front_end="symbolic"))
    assert "addcmul" not in names(check(lambda m, x: torch.addcmul(x, m.f(x), x, value=2), front_end="symbolic"))


def test_rsub_becomes_a_subtraction():
    gm = normalise(build(lambda g, x: g.call_function(torch.ops.aten.rsub.Scalar, (x, 1.0)), x=X))
    node = list(gm.graph.nodes)[1]
    assert node.target is operator.sub and node.args[0] == 1.0
    gm.recompile()
    assert torch.equal(gm(X), 1.0 - X)


def test_the_shape_of_a_spelled_out_product_is_that_of_its_larger_factor():
    model = Net(lambda m, x: torch.addcmul(x, m.scale, m.f(x)), f=Mlp(), scale=nn.Parameter(torch.ones(8))).double()
    gm = normalise(traced(model, X))
    product = next(n for n in gm.graph.nodes if canonical_name(n) == "mul")
    assert product.meta["val"].shape == X.shape


@pytest.mark.parametrize("front_end", ["dynamo", "symbolic", "export"])
def test_the_zero_pythons_sum_starts_with_is_dropped(front_end):
    gm = check(lambda m, x: sum([x, m.f(x)]), front_end)
    assert sum(kind_of(n) is Kind.ADD for n in gm.graph.nodes) == 1


@pytest.mark.parametrize("constant", [1, 0.0, True])
def test_other_constants_are_left_alone(constant):
    gm = normalise(build(lambda g, x: g.call_function(operator.add, (x, constant)), x=X))
    assert names(gm) == ["add"]


def test_a_zero_added_to_another_dtype_or_to_a_written_tensor_is_left_alone():
    for x, left in ((X, []), (X > 0, ["add"])):
        gm = normalise(build(lambda g, x: g.call_function(operator.add, (0, x)), x=x))
        assert names(gm) == left

    def make(graph, x):
        copied = graph.call_function(operator.add, (x, 0))
        graph.call_method("mul_", (x, 2.0))
        return copied

    gm = normalise(build(make, x=X.clone()))
    assert names(gm) == ["add", "mul"] and torch.equal(gm(X.clone()), X)


@pytest.mark.parametrize("front_end", ["dynamo", "symbolic"])
def test_parts_that_are_concatenated_twice_are_one_value(front_end):
    def body(m, x):
        a, b = x[:, :2], x[:, 2:]
        return torch.cat([a, b], 1) + m.f(torch.cat([a, b], 1)) + m.f(torch.cat([b, a], 1))

    assert names(check(body, front_end)).count("cat") == 2


def test_concatenations_are_two_values_where_one_is_written_to_or_has_no_gradient():
    def written(m, x):
        a = torch.cat([x, x], 1)
        a[:, [0]] = 0.0
        return a + torch.cat([x, x], 1)

    def without_gradients(m, x):
        with torch.no_grad():
            a = torch.cat([x, x], 1)
        return m.f(a) + torch.cat([x, x], 1)

    assert names(check(written, remaining=1)).count("cat") == 2
    assert names(check(without_gradients)).count("cat") == 2


def test_normalise_leaves_pure_graphs_alone():
    gm = traced(Net(lambda m, x: x + m.f(x), f=Mlp()).double(), X)
    before = copy.deepcopy(gm.graph)
    assert [str(n) for n in normalise(gm).graph.nodes] == [str(n) for n in before.nodes]
