"""Derivatives inside a forward are those of the call; where code computes gradients by hand, it is left alone."""

from __future__ import annotations

from typing import Any

import pytest
import torch
from torch import Tensor, nn
from torch.testing import assert_close

from mhc_compile.errors import CaptureError
from mhc_compile.passes.plan.reasons import Reason
from tests.moved import Net, X, moved
from tests.toy_models import Block


class Differentiating(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.net = Net()

    def forward(self, x: Tensor) -> tuple[Tensor, Tensor]:
        energy = self.net(x).square().sum()
        return energy, -torch.autograd.grad(energy, x, create_graph=True)[0]


def test_a_derivative_inside_forward_is_that_of_the_call():
    x = X.clone().requires_grad_()
    t = moved(Differentiating(), example_inputs=(x,))
    energy, force = t(x)
    assert_close(force, -torch.autograd.grad(t.net(x).square().sum(), x)[0])
    assert_close(energy, t.net(x).square().sum())


def test_a_transform_of_torch_func_inside_forward_is_that_of_the_call():
    class Forces(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.net = Net()

        def forward(self, x: Tensor) -> Tensor:
            return -torch.func.grad(lambda v: self.net(v).square().sum())(x)

    x = X.clone().requires_grad_()
    t = moved(Forces())
    assert_close(t(X), -torch.autograd.grad(t.net(x).square().sum(), x)[0])


class Reversible(torch.autograd.Function):
    """Computes its gradients by hand, as reversible layers do."""

    @staticmethod
    def forward(ctx: Any, x: Tensor, body: nn.Module) -> Tensor:
        ctx.body = body
        torch._dynamo.graph_break()
        y = body(x)
        ctx.save_for_backward(x)
        return y

    @staticmethod
    def backward(ctx: Any, gradient: Tensor) -> tuple[Tensor, None]:
        with torch.enable_grad():
            x = ctx.saved_tensors[0].detach().requires_grad_()
            ctx.body(x).backward(gradient)
        return x.grad, None


def test_residual_connections_in_an_autograd_function_are_left_alone_with_the_reason():
    class Partly(Net):
        def __init__(self) -> None:
            super().__init__()
            self.body = nn.Sequential(Block(), Block())

        def forward(self, x: Tensor) -> Tensor:
            return super().forward(Reversible.apply(x, self.body))

    t = moved(Partly())
    assert {site.module for site in t.mhc_plan.sites} == {"blocks.0", "blocks.1"}
    assert sum(r.reason is Reason.CUSTOM_BACKWARD for r in t.mhc_plan.rejected) == 2


class Product(torch.autograd.Function):
    """Dynamo does not trace it where both factors are one tensor and gradients are recorded."""

    @staticmethod
    def forward(ctx: Any, a: Tensor, b: Tensor) -> Tensor:
        ctx.save_for_backward(a, b)
        return a * b

    @staticmethod
    def backward(ctx: Any, gradient: Tensor) -> tuple[Tensor, Tensor]:
        a, b = ctx.saved_tensors
        return gradient * b, gradient * a


class Squared(Block):
    def forward(self, x: Tensor) -> Tensor:
        h = self.up(self.norm(x))
        return x + self.down(Product.apply(h, h))


class Partly(Net):
    def __init__(self) -> None:
        super().__init__()
        self.blocks[1] = Squared()


def test_what_is_left_alone_where_gradients_are_recorded_is_so_without_them():
    t = moved(Partly())
    assert [site.key for site in t.mhc_plan.sites] == ["blocks.0"]
    expected = t(X.clone().requires_grad_()).detach()
    for training in (True, False):
        t.train(training)
        with torch.no_grad():
            assert_close(t(X), expected)
            assert_close(t(X[:2]), expected[:2])


class Switched(Partly):
    deep = False

    def __init__(self) -> None:
        super().__init__()
        self.extra = Block()

    def forward(self, x: Tensor) -> Tensor:
        return super().forward(self.extra(x) if self.deep else x)


def test_a_sum_that_the_example_inputs_did_not_have_is_asked_for_still():
    t = moved(Switched())
    t.deep = True
    with torch.no_grad(), pytest.raises(CaptureError, match="extra, which was not there"):
        t(X)
