from __future__ import annotations

import logging
import types

import pytest
import torch
import torch.nn.functional as F
from torch import Tensor, nn
from torch.nn.utils import prune
from torch.testing import assert_close

from mhc_compile.errors import CaptureError
from tests.moved import Net, X, moved, net, programs


def doubled(self: nn.Module, x: Tensor) -> Tensor:
    return x + 2 * self.down(torch.relu(self.up(self.norm(x))))


def test_a_forward_set_on_a_block_is_used_until_it_is_taken_away():
    t = net()
    before = t(X)
    for block in t.blocks:
        block.forward = types.MethodType(doubled, block)
    patched = t(X)
    for block in t.blocks:
        block.down.weight.data.mul_(2)
        block.down.bias.data.mul_(2)
        del block.forward
    assert_close(t(X), patched)
    assert not torch.allclose(before, patched)


def test_a_forward_set_on_a_layer_is_used():
    t = net()
    before = t(X)
    up = t.blocks[0].up
    up.forward = lambda x: F.linear(x, up.weight, up.bias)
    assert_close(t(X), before)
    up.forward = lambda x: 0 * F.linear(x, up.weight)
    assert not torch.allclose(t(X), before)
    del up.forward
    assert_close(t(X), before)


def test_a_forward_set_around_that_of_a_block_is_called():
    t = net()
    before, calls = t(X), []
    inner = t.blocks[0].forward

    def around(x: Tensor) -> Tensor:
        calls.append(1)
        return inner(x)

    t.blocks[0].forward = around
    t(X)
    assert calls == [1]
    del t.blocks[0].forward
    assert_close(t(X), before)


def test_a_layer_replaced_by_another_of_the_same_class_is_the_one_that_runs():
    t = net()
    before = t(X)
    old = t.blocks[0].up
    t.blocks[0].up = nn.Linear(old.in_features, old.out_features)
    assert not torch.allclose(t(X), before)
    t.blocks[0].up.load_state_dict(old.state_dict())
    assert_close(t(X), before)


@pytest.mark.parametrize("norm", [nn.utils.parametrizations.weight_norm, nn.utils.parametrizations.spectral_norm])
def test_a_parametrization_that_comes_and_goes(norm):
    t = net().eval()
    before = t(X)
    norm(t.blocks[0].down)
    parametrized = t(X)
    nn.utils.parametrize.remove_parametrizations(t.blocks[0].down, "weight")
    assert_close(t(X), parametrized)
    assert (norm is nn.utils.parametrizations.weight_norm) == torch.allclose(before, parametrized, atol=1e-5)


@pytest.mark.parametrize("before", [False, True])
@pytest.mark.parametrize("norm", [True, False])
def test_hooks_that_compute_a_weight_before_each_call_do_so(before, norm):
    """The older `weight_norm` and `prune` put a tensor in the place of the parameter, anew at each call."""

    def put_on(layer: nn.Module) -> None:
        if norm:
            nn.utils.weight_norm(layer)
        else:
            prune.l1_unstructured(layer, "weight", 0.5)

    model = Net()
    if before:
        put_on(model.blocks[0].up)
    t = moved(model)
    if not before:
        put_on(t.blocks[0].up)
    first = t(X)
    first.sum().backward()
    part = t.blocks[0].up.weight_g if norm else t.blocks[0].up.weight_orig
    assert part.grad is not None
    with torch.no_grad():
        part.mul_(2)
    second = t(X)
    assert not torch.allclose(first, second)
    (nn.utils.remove_weight_norm if norm else prune.remove)(t.blocks[0].up, *([] if norm else ["weight"]))
    assert_close(t(X), second)


def test_one_line_for_each_trace_says_why(caplog):
    t = net()
    with caplog.at_level(logging.INFO, "mhc_compile"):
        t(X)
        assert "tracing" not in caplog.text
        t.blocks[0].drop.p = 0.5
        t(X)
    assert "blocks.0.drop.p is 0.5, no longer 0.0" in caplog.text
    assert programs(t) == 2


def test_export_of_a_kind_of_call_that_was_never_made_says_what_to_do():
    t = net()
    with pytest.raises(CaptureError, match="call the model once with the inputs to export"):
        torch.export.export(t.eval(), (X,), strict=False)
