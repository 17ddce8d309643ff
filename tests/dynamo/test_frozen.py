"""New parameters that are frozen and unfrozen while their model is compiled: gradients are those of an eager model."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import pytest
import torch
from torch import nn

import mhc_compile
from mhc_compile.dynamo.frozen import as_compiled, watched
from mhc_compile.dynamo.inner import InnerChoice
from tests.dynamo.breaking import Loop, made
from tests.dynamo.towers import inputs, tower
from tests.tables import also


class Counting:
    """An inner backend that counts what it compiles."""

    def __init__(self) -> None:
        self.count = 0

    def __call__(self, gm: torch.fx.GraphModule, example_inputs: Sequence[Any]) -> Any:
        self.count += 1
        return InnerChoice("aot_eager").resolve()(gm, example_inputs)


def compiled(model: nn.Module, x: torch.Tensor, inner: Any) -> Any:
    backend = mhc_compile.backend(inner=inner)
    backend.attach(model, (x,))
    return torch.compile(model, backend=backend)


def learning(model: nn.Module, call: Any, x: torch.Tensor) -> list[str]:
    """The new parameters that get a gradient."""
    model.zero_grad()
    call(x).square().sum().backward()
    return [name for name, p in model.hyper_connections.named_parameters() if p.grad is not None]


def trained(model: nn.Module) -> list[str]:
    return [name for name, p in model.hyper_connections.named_parameters() if p.requires_grad]


@pytest.mark.parametrize("inner", ["eager", "aot_eager", *also("inductor")])  # it stands on what aot_eager does
def test_parameters_learn_as_soon_as_they_are_unfrozen(inner: str) -> None:
    model, x = tower(), inputs()
    call = compiled(model, x, inner)
    for flag in (False, True, True, False, True):
        model.hyper_connections.requires_grad_(flag)
        assert learning(model, call, x) == trained(model)
    assert trained(model)


def test_a_part_of_them_may_be_unfrozen() -> None:
    model, x, inner = tower(), inputs(), Counting()
    call = compiled(model, x, inner)
    model.hyper_connections.requires_grad_(False)
    learning(model, call, x)
    next(iter(model.hyper_connections.parameters())).requires_grad_(True)
    for _ in range(3):
        assert learning(model, call, x) == trained(model) and len(trained(model)) == 1
    assert inner.count == 2


def test_what_does_not_learn_needs_no_gradient() -> None:
    model, x = tower().requires_grad_(False), inputs()
    call = compiled(model, x, "aot_eager")
    assert call(x).requires_grad
    model.hyper_connections.requires_grad_(False)
    assert not call(x).requires_grad


def test_blocks_that_share_a_graph_but_not_their_flags_settle() -> None:
    model, inner = made(Loop), Counting()
    x = inputs()
    call = compiled(model, x, inner)
    last = list(model.hyper_connections)[-1]
    model.hyper_connections.requires_grad_(False)
    model.hyper_connections[last].requires_grad_(True)
    for _ in range(3):
        assert learning(model, call, x) == trained(model)
    settled = inner.count
    for _ in range(3):
        assert learning(model, call, x) == trained(model)
    assert inner.count == settled


def parameters(*flags: bool) -> list[nn.Parameter]:
    return [nn.Parameter(torch.ones(1), requires_grad=flag) for flag in flags]


def test_code_for_trained_parameters_is_left_as_it_is() -> None:
    def code() -> None: ...

    assert watched(code, print, parameters(True, True), print) is code


def test_positions_are_counted_from_the_end() -> None:
    told: list[Sequence[int]] = []
    call = watched(lambda *_: "code", lambda *_: "graph", parameters(True, False), told.append)
    assert call("x", *parameters(False, False)) == "code" and not told
    assert call("x", *parameters(True, True)) == "graph" and told == [[-1]]
    assert [p.requires_grad for p in as_compiled(parameters(False, False), told[0])] == [False, True]
