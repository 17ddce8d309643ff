"""Adapters of PEFT on top of a transformed model: their switches are attributes that forward reads."""

from __future__ import annotations

import pytest
import torch
from torch import nn
from torch.testing import assert_close

from tests.moved import Net, X, moved, programs

peft = pytest.importorskip("peft")


def adapted(t: nn.Module) -> nn.Module:
    config = peft.LoraConfig(r=2, target_modules=["up", "down"], init_lora_weights=False)
    return peft.get_peft_model(t, config).eval()


@pytest.fixture
def plain() -> nn.Module:
    return moved(Net().eval())


def test_with_its_adapter_off_a_model_is_what_it_was_before(plain):
    off = plain(X)
    model = adapted(plain)
    on = model(X)
    for _ in range(2):
        with model.disable_adapter():
            assert_close(model(X), off)
        assert_close(model(X), on)
    assert not torch.allclose(on, off, atol=1e-3)
    assert programs(plain) == 3  # without adapters, on, off


def test_merged_and_unmerged_it_is_the_same_function(plain):
    model = adapted(plain)
    on = model(X)
    model.merge_adapter()
    assert_close(model(X), on)
    model.unmerge_adapter()
    assert_close(model(X), on)


def test_another_adapter_is_another_function_until_the_first_is_active_again(plain):
    model = adapted(plain)
    first = model(X)
    model.add_adapter("other", model.peft_config["default"])
    assert_close(model(X), first)
    model.set_adapter("other")
    assert not torch.allclose(model(X), first, atol=1e-3)
    model.set_adapter("default")
    assert_close(model(X), first)


def test_unloaded_the_model_is_what_it_was_before(plain):
    off = plain(X)
    model = adapted(plain)
    model(X)
    assert_close(model.unload()(X), off)
