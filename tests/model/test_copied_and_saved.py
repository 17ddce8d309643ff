"""A transformed model copied, pickled, saved, and its state in another one."""

from __future__ import annotations

import copy
import io
import pickle

import pytest
import torch
from torch import nn

import mhc_compile
from tests.capture.readers import InTensors
from tests.model.towers import X, close, programs, transformed
from tests.moved import Net, move, moved
from tests.moved import X as INPUT
from tests.toy_models import WIDTH, Tower


class Gate(torch.autograd.Function):
    @staticmethod
    def forward(ctx, x):
        ctx.save_for_backward(x)
        return x * x.sigmoid()

    @staticmethod
    def backward(ctx, gradient):
        (x,) = ctx.saved_tensors
        return gradient * x.sigmoid() * (1 + x * (1 - x.sigmoid()))


class Gated(Tower):
    def forward(self, x):
        return super().forward(Gate.apply(x))


def test_deepcopy_is_independent():
    twin = transformed()
    other = copy.deepcopy(twin)
    assert type(other) is type(twin) and close(other(X), twin(X))
    with torch.no_grad():
        other.stem.bias.add_(1)
        next(iter(other.hyper_connections.parameters())).add_(1)
    assert not any(a is b for a, b in zip(other.parameters(), twin.parameters(), strict=True))
    assert not close(other(X), twin(X))


def test_deepcopy_does_not_share_constants():
    x = torch.randn(2, 3, WIDTH)
    twin = transformed(InTensors(), x)
    other = copy.deepcopy(twin)
    other.gains[0].mul_(3)
    assert close(other(x), 3 * twin(x)) and programs(other) == 1
    assert close(other(x), mhc_compile.revert(other)(x))


def test_pickle_restores_class_parameters_and_plan():
    twin = move(transformed())
    other = pickle.loads(pickle.dumps(twin))
    assert isinstance(other, Tower) and other.mhc_plan == twin.mhc_plan
    assert programs(other) == 0 and close(other(X), twin(X)) and programs(other) == 1


def test_torch_save_and_load():
    twin, file = move(transformed()), io.BytesIO()
    torch.save(twin, file)
    file.seek(0)
    assert close(torch.load(file, weights_only=False)(X), twin(X))


def test_state_dict_fits_a_fresh_transform():
    twin, other = transformed(), transformed()
    with torch.no_grad():
        for parameter in twin.parameters():
            parameter.add_(0.1)
    other.load_state_dict(twin.state_dict(), strict=True)
    assert torch.equal(other(X), twin(X))


def test_code_with_an_autograd_function_serves_every_call_and_those_of_copies(caplog):
    t = moved(Gated(), example_inputs=(X,))
    known = programs(t)
    caplog.set_level("INFO", "mhc_compile")
    for model in (t, t, copy.deepcopy(t)):
        model(X)
        assert programs(model) == known
    assert "tracing" not in caplog.text


@pytest.mark.filterwarnings("ignore::mhc_compile.errors.NotPreservingWarning")
@pytest.mark.parametrize("norm", [nn.utils.parametrizations.weight_norm, nn.utils.parametrizations.spectral_norm])
@pytest.mark.parametrize("before", [False, True], ids=["after transform", "before"])
def test_a_plain_model_with_a_parametrization_can_be_copied(norm, before):
    model = Net().eval()
    if before:
        norm(model.blocks[0].up)
    t = moved(model)
    if not before:
        norm(t.blocks[0].up)
    plain = mhc_compile.revert(t)
    twin = copy.deepcopy(plain)
    assert torch.equal(twin(INPUT), plain(INPUT))
    assert twin.blocks[0].up.parametrizations.weight is not plain.blocks[0].up.parametrizations.weight
