"""Hooks of modules: those that were there are traced, or run at every call; later ones fire as in the plain model."""

from __future__ import annotations

import pytest
import torch
from torch import nn

import mhc_compile
from mhc_compile.errors import HookNotRunWarning
from tests.toy_models import WIDTH, Block, Tower
from tests.twin.towers import X, gradients, transformed


def test_hooks_see_tensors_as_inputs():
    twin, seen = transformed(), []
    twin.blocks[1].register_forward_pre_hook(lambda module, inputs: seen.extend(inputs))
    twin.blocks[1].register_forward_hook(lambda module, inputs, output: seen.extend(inputs))
    twin(X)
    assert seen and all(isinstance(value, torch.Tensor) for value in seen)


@pytest.mark.parametrize("connection", ["mhc", "hc"])
def test_hooks_of_submodules_fire_in_order(connection):
    twin, calls = transformed(connection=connection), []
    for name, module in twin.named_modules():
        if isinstance(module, (Block, nn.Linear)) and name != "unused":
            module.register_forward_hook(lambda *_, name=name: calls.append(name))
    twin(X)
    blocks = [f"blocks.{i}{part}" for i in range(3) for part in (".up", ".down", "")]
    assert calls == ["stem", *blocks, "head"]


def test_backward_hooks_of_submodules_fire():
    twin, calls = transformed(), []
    twin.blocks[1].register_full_backward_hook(lambda *_: calls.append(1))
    gradients(twin)
    assert calls == [1]


def test_hooks_that_were_traced_do_not_run_again():
    model = Tower()
    model.blocks[0].register_forward_hook(lambda *args: args[2] * 2)
    expected = model(X)
    twin = mhc_compile.transform(model, n=4, example_inputs=(X,), modes=("train",))
    torch.testing.assert_close(twin(X), expected)
    torch.testing.assert_close(mhc_compile.revert(twin)(X), expected)


def test_hooks_that_were_there_and_collect_something_do_so_at_every_call():
    model, calls = Tower(), []
    model.blocks[0].register_forward_hook(lambda *args: calls.append(args[2].sum()) or args[2] * 2)
    expected = model(X)
    twin = mhc_compile.transform(model, n=4, example_inputs=(X,), modes=("train",))
    for module in (twin, mhc_compile.revert(twin)):
        calls.clear()
        torch.testing.assert_close(module(X), expected)
        assert len(calls) == 1


COLLECTED = []


def note(value):
    COLLECTED.append(value.detach().sum())
    return value * 2


NOTING = {
    "before": lambda body: body.register_forward_pre_hook(lambda m, args: (note(args[0]),)),
    "before, with keywords": lambda body: body.register_forward_pre_hook(
        lambda m, args, kwargs: ((note(args[0]),), kwargs), with_kwargs=True
    ),
    "after": lambda body: body.register_forward_hook(lambda m, args, out: note(out)),
    "after, with keywords": lambda body: body.register_forward_hook(
        lambda m, args, kwargs, out: note(out), with_kwargs=True
    ),
    "both": lambda body: [NOTING[name](body) for name in ("before", "after")],
}


@pytest.mark.parametrize("kind", NOTING)
def test_so_do_those_of_a_module_that_is_called_alone(kind):
    """What they collect lies outside of the model, so the call is no program but goes through Dynamo."""
    model = nn.Sequential(nn.Linear(WIDTH, WIDTH), nn.Sequential(Block(), Block()))
    NOTING[kind](model[1])
    twin = transformed(model, modes=("train",))
    COLLECTED.clear()
    inside, within = twin(X), list(COLLECTED)
    COLLECTED.clear()
    alone = twin[1](twin[0](X))
    torch.testing.assert_close(alone, inside)
    torch.testing.assert_close(COLLECTED, within)
    assert len(within) == (2 if kind == "both" else 1) and not torch.allclose(model(X), inside)


def test_a_hook_that_will_never_fire_is_warned_of():
    twin = transformed()
    with pytest.warns(HookNotRunWarning, match="Linear is not called"):
        twin.unused.register_forward_hook(lambda *_: None)
