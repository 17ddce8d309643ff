"""Float adds in the bodies of higher-order operators: counted, and left alone with a reason."""

from __future__ import annotations

import re
from collections.abc import Callable
from typing import Any

import pytest
import torch
from torch import Tensor, nn
from torch._higher_order_ops import while_loop
from torch._higher_order_ops.map import map as map_rows
from torch._higher_order_ops.scan import scan
from torch.utils.checkpoint import checkpoint

import mhc_compile
from mhc_compile.passes.plan.data import Plan
from mhc_compile.passes.plan.reasons import Reason
from mhc_compile.report.terminal import check_totals
from tests.passes.graphs import plan_of
from tests.toy_models import WIDTH, Block


class Doubled(torch.autograd.Function):
    @staticmethod
    def forward(ctx: Any, x: Tensor) -> Tensor:
        return x + x

    @staticmethod
    def backward(ctx: Any, gradient: Tensor) -> Tensor:
        return gradient + gradient


class Net(nn.Module):
    """A site, and then whatever `body` does with the second and the third block."""

    def __init__(self, body: Callable[[Any, Tensor], Tensor]) -> None:
        super().__init__()
        self.blocks = nn.ModuleList(Block() for _ in range(3))
        self.body = body

    def forward(self, x: Tensor) -> Tensor:
        return self.body(self, self.blocks[0](x))


def choose(net: Net, x: Tensor) -> Tensor:
    return torch.cond(x.sum() > 0, lambda x: net.blocks[1](x), lambda x: net.blocks[2](x), (x,))


def choose_twice(net: Net, x: Tensor) -> Tensor:
    return torch.cond(x.sum() > 0, lambda x: choose(net, x) + 1.0, lambda x: x.sin(), (x,))


def repeat(net: Net, x: Tensor) -> Tensor:
    def step(i: Tensor, x: Tensor) -> tuple[Tensor, Tensor]:
        return i + 1, net.blocks[1](x)

    return while_loop(lambda i, x: i < 3, step, (torch.tensor(0), x))[1]


def accumulate(net: Net, x: Tensor) -> Tensor:
    return scan(lambda carry, row: (carry + row, carry * row), x[0], x, dim=0)[1]


def row_by_row(net: Net, x: Tensor) -> Tensor:
    return map_rows(lambda row: net.blocks[1](row), x)


def in_a_checkpoint(net: Net, x: Tensor) -> Tensor:
    return checkpoint(choose, net, x, use_reentrant=False)


CASES = [
    (choose, "cond", 2),
    (choose_twice, "cond", 3),
    (repeat, "while_loop", 1),
    (accumulate, "scan", 1),
    (row_by_row, "map_impl", 1),
    (in_a_checkpoint, "cond", 2),
    (lambda net, x: Doubled.apply(x), "autograd_function_apply", 1),
]


@pytest.fixture(autouse=True)
def _fresh_dynamo() -> None:
    torch.compiler.reset()


def planned(body: Callable[[Any, Tensor], Tensor], front_end: str = "dynamo") -> Plan:
    return plan_of(Net(body).eval(), torch.randn(2, 5, WIDTH), front_end=front_end)


@pytest.mark.parametrize(("body", "operator", "count"), CASES, ids=[f"{case[1]}-{case[2]}" for case in CASES])
def test_every_add_in_a_body_is_left_alone_with_the_name_of_its_operator(
    body: Callable[[Any, Tensor], Tensor], operator: str, count: int
) -> None:
    plan = planned(body)
    hidden = [r for r in plan.rejected if r.reason is Reason.HIGHER_ORDER]
    assert [s.key for s in plan.sites] == ["blocks.0"]
    assert len(hidden) == count and all(r.detail.endswith(operator) for r in hidden)
    check_totals(plan)


@pytest.mark.parametrize("front_end", ["dynamo", "export"])
def test_a_branch_of_cond_is_listed_with_its_place(front_end: str) -> None:
    first, second = (r for r in planned(choose, front_end).rejected if r.reason is Reason.HIGHER_ORDER)
    assert first.add.rpartition(".")[0] != second.add.rpartition(".")[0]
    assert re.search(r"(toy_models|test_subgraphs)\.py:\d+$", first.location) and first.shape[-1] == WIDTH


def test_the_body_is_computed_as_before() -> None:
    model, x = Net(choose), torch.randn(2, 5, WIDTH)
    for body in (choose, in_a_checkpoint):
        model.body = body
        assert torch.equal(mhc_compile.transform(model, example_inputs=(x,))(x), model(x))


def test_an_add_around_the_operator_is_a_site() -> None:
    def around(net: Net, x: Tensor) -> Tensor:
        first, second = net.blocks[1], net.blocks[2]
        return x + torch.cond(x.sum() > 0, lambda x: first(x) - x, lambda x: second(x) - x, (x,))

    assert len(planned(around).sites) == 2
