from __future__ import annotations

import operator

import pytest
import torch

from mhc_compile.passes.graph.ancestry import Ancestry
from mhc_compile.passes.graph.sums import NotASum, Operand, Sum, direct_sum, fold, inner_sums, is_float_add
from mhc_compile.passes.plan.reasons import Reason
from tests.passes.graphs import build, graph_of
from tests.passes.layers import Net2, tokens

X = tokens()


def graph(fn, *inputs) -> tuple[Ancestry, int]:
    """The graph of `fn(x, y)` and the position of its result."""
    made = graph_of(Net2(lambda m, x, y: fn(x, y)), *(inputs or (X, X.clone())))
    return made, len(made.nodes) - 2


@pytest.mark.parametrize("fn", [
    lambda x, y: x + y, lambda x, y: torch.add(x, y), lambda x, y: x - y, lambda x, y: x.add(other=y),
    lambda x, y: torch.add(input=x, other=y), lambda x, y: torch.subtract(x, y), lambda x, y: x.add_(y),
])  # fmt: skip
def test_spellings_of_a_sum_of_two_tensors(fn):
    made, last = graph(fn)
    total = direct_sum(made, last)
    assert is_float_add(made, last) and isinstance(total, Sum)
    assert [o.node for o in total.operands] == [0, 1] and total.adds == (last,)


def test_a_subtracted_term_is_negated():
    made, last = graph(lambda x, y: x - y)
    assert direct_sum(made, last).operands == (Operand(0), Operand(1, negated=True))


@pytest.mark.parametrize("fn", [
    lambda x, y: x * y, lambda x, y: (x > 0) & (y > 0), lambda x, y: x.long() + y.long(),
    lambda x, y: x[0, 0] + 1.0, lambda x, y: x.sum() + y.sum(),
])  # fmt: skip
def test_is_float_add_rejects_other_ops_dtypes_and_low_ranks(fn):
    made, last = graph(fn)
    assert not is_float_add(made, last)


def test_without_shapes_every_add_with_a_tensor_may_be_one():
    gm = torch.fx.symbolic_trace(Net2(lambda m, x, y: x + y))
    assert is_float_add(Ancestry(gm), 2)


@pytest.mark.parametrize(("fn", "reason"), [
    (lambda x, y: x + 1.0, Reason.SCALAR), (lambda x, y: 2 - x, Reason.SCALAR),
    (lambda x, y: x + y[..., :1], Reason.BROADCAST), (lambda x, y: x[:1] + y, Reason.BROADCAST),
    (lambda x, y: x + y.mean(), Reason.BROADCAST), (lambda x, y: x + x.size(0), Reason.SCALAR),
])  # fmt: skip
def test_direct_sum_rejects_constants_and_broadcasts(fn, reason):
    made, last = graph(fn)
    found = direct_sum(made, last)
    assert isinstance(found, NotASum) and found.reason is reason


def test_fold_keeps_the_order_of_terms_and_carries_signs():
    outer = Sum(9, (Operand(7), Operand(8, negated=True)), (9,))
    inner = Sum(8, (Operand(1), Operand(2, negated=True)), (8,))
    total = fold(outer, inner)
    assert total.operands == (Operand(7), Operand(1, negated=True), Operand(2)) and total.adds == (8, 9)


def test_inner_sums_are_those_used_by_nothing_else():
    def make(g, x, y):
        once = g.call_function(operator.add, (x, y))
        twice = g.call_function(operator.add, (x, once))
        return g.call_function(operator.add, (twice, g.call_function(torch.sin, (twice,))))

    made = Ancestry(build(make, x=X, y=X))
    sums = {i: direct_sum(made, i) for i in (2, 3, 5)}
    assert [s.add for s in inner_sums(made, sums[3], sums)] == [2]
    assert list(inner_sums(made, sums[5], sums)) == []
