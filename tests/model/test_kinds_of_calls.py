"""Calls of a kind that was not traced before: other arguments, sizes, modes, dtypes, devices, parameters."""

from __future__ import annotations

from dataclasses import dataclass

import pytest
import torch
from torch import nn
from transformers.utils import ModelOutput

import mhc_compile
from mhc_compile.errors import CaptureError
from mhc_compile.model import retrace
from mhc_compile.programs import variants
from tests.model.towers import X, close, programs, transformed
from tests.moved import move
from tests.tables import also
from tests.toy_models import WIDTH, Block, Forked, Normalised, Tokens


def test_other_arguments_are_traced_when_they_come():
    twin = transformed()
    mask = torch.ones(2, 3, 1)
    mask[0] = 0
    plain = mhc_compile.revert(twin)
    assert close(twin(X, mask=mask), plain(X, mask=mask)) and programs(twin) == 3
    alone = move(twin)(X)
    assert not close(alone, plain(X)) and not close(twin(X, mask=mask), plain(X, mask=mask))
    assert close(twin(X, gain=2.0), 2 * alone) and programs(twin) == 4
    assert close(twin(X[:1]), alone[:1]) and programs(twin) == 5
    twin(X, gain=2.0)
    assert programs(twin) == 5
    for gain in (1.0, 3.0):  # a number that changes is for Dynamo
        assert close(twin(X[:1], gain=gain), gain * alone[:1]) and programs(twin) == 5


def test_labels_given_later_change_the_output_structure():
    ids = torch.randint(0, 11, (2, 3))
    model = Tokens()
    twin = transformed(model, ids)
    assert set(twin(ids)) == {"hidden"}
    out, expected = twin(ids, labels=torch.ones(2, 3)), model(ids, labels=torch.ones(2, 3))
    assert set(out) == set(expected) and close(out["loss"], expected["loss"])
    out = move(twin)(ids, labels=torch.ones(2, 3))
    assert close(out["hidden"], twin(ids)["hidden"]) and not close(out["hidden"], expected["hidden"])


def test_gradient_mode_never_leaks():
    ids = torch.randint(0, 11, (2, 3))
    twin = transformed(Tokens(), ids, modes=("eval",)).eval()
    before = programs(twin)
    with torch.no_grad():
        assert not twin(ids)["hidden"].requires_grad
        assert not torch.is_grad_enabled()
    assert twin(ids)["hidden"].requires_grad
    assert programs(twin) == before


def test_frozen_batch_norm_has_its_own_graph():
    x = torch.randn(4, WIDTH) * 3 + 1
    model = Normalised()
    twin = transformed(model, x)
    twin.train()
    twin.bn.eval()
    mean = twin.bn.running_mean.clone()
    plain = mhc_compile.revert(twin)
    assert close(twin(x), plain(x)) and not close(move(twin)(x), plain(x))
    assert torch.equal(twin.bn.running_mean, mean)
    twin.bn.train()
    twin(x)
    assert not torch.equal(twin.bn.running_mean, mean)


@pytest.mark.parametrize("dtype", [torch.float64, torch.bfloat16, *also(torch.float16)])
def test_cast_after_transform(dtype):
    twin = move(transformed().eval())
    before = twin(X)
    out = twin.to(dtype)(X.to(dtype))
    assert out.dtype == dtype
    assert torch.allclose(out.float(), before, rtol=0.1, atol=0.1)


def test_a_dtype_that_the_model_asks_its_parameters_for_is_no_constant():
    class Casting(Block):
        def forward(self, x):
            return super().forward(x.to(self.up.weight.dtype))

    twin = mhc_compile.transform(Casting(), n=2, example_inputs=(X,), modes=("train",))
    assert twin(X).dtype == torch.float32 and programs(twin) == 1
    assert twin.double()(X).dtype == torch.float64 and programs(twin) == 2


def test_moved_to_meta():
    twin = transformed().to("meta")
    assert twin(X.to("meta")).device.type == "meta"


def test_replaced_parameter_is_seen():
    twin = transformed()
    twin.head.bias = nn.Parameter(torch.full((WIDTH,), 7.0))
    twin.blocks[0] = Block()
    assert close(twin(X), mhc_compile.revert(twin)(X)) and programs(twin) == 3
    seven = move(twin)(X)
    twin.head.bias = nn.Parameter(torch.full((WIDTH,), 8.0))
    assert close(twin(X), seven + 1)


def test_call_that_needs_unknown_sites_is_an_error_that_says_what_to_do():
    twin = transformed(Forked(), torch.randn(2, 4, WIDTH))
    with pytest.raises(CaptureError, match=r"long.*example_inputs"):
        twin(torch.randn(2, 6, WIDTH))


class Convolved(nn.Module):
    def __init__(self):
        super().__init__()
        self.conv = nn.Conv1d(4, 4, 3, padding=1)

    def forward(self, x):
        return x + self.conv(x)


def test_sizes_that_change_at_every_call_are_for_dynamo_in_the_end(monkeypatch):
    monkeypatch.setattr(retrace, "MAX_ALIKE", 2)
    monkeypatch.setattr(variants, "_changing", lambda *_: {})  # as where a trace with open sizes fails
    twin = transformed(Convolved(), torch.randn(2, 4, 50))
    for length in range(51, 55):
        x = torch.randn(2, 4, length)
        assert close(twin(x), mhc_compile.revert(twin)(x))
    assert programs(twin) <= 2


@dataclass
class Pair(ModelOutput):
    first: torch.Tensor | None = None
    second: torch.Tensor | None = None


class TakesPair(nn.Module):
    def __init__(self):
        super().__init__()
        self.blocks = nn.ModuleList(Block() for _ in range(2))

    def forward(self, x, pair=None):
        for block in self.blocks:
            x = block(x)
        return x if pair is None else x + 2 * pair.first - 3 * pair.second


@pytest.mark.parametrize("turned", [False, True])
def test_entries_of_an_object_are_told_apart_by_their_names_whatever_their_order(turned):
    """An object that is made anew from its parts has its entries in the order of its class."""
    model = TakesPair()
    pair = Pair(second=torch.ones_like(X)) if turned else Pair(first=X)
    pair["first"], pair["second"] = X, torch.ones_like(X)
    assert list(pair) == (["second", "first"] if turned else ["first", "second"])
    twin = transformed(model)
    for _ in range(2):  # traced, and served by the trace
        assert close(twin(X, pair), model(X, pair))
    assert programs(twin) == 2
