"""The children of a transformed model: taken for a feature extractor, called by its own forward, shared by a copy."""

from __future__ import annotations

import copy
import gc
import warnings

import pytest
import torch
from torch import Tensor, nn
from torch.testing import assert_close

import mhc_compile
from mhc_compile.errors import CaptureError, MhcError
from tests.model.called_parts import Features, Lit
from tests.moved import X, moved, net
from tests.toy_models import WIDTH, Block


def test_layers_in_a_list_beside_the_children_are_doors_and_follow_their_attributes():
    class Listed(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.a, self.b = Block(), Block()
            self.order = [self.a, self.b]

        def forward(self, x: Tensor) -> Tensor:
            for layer in self.order:
                x = layer(x)
            return x

    t = moved(Listed())
    before = t(X)
    t.a.drop.p = 1.0
    assert not torch.allclose(t(X), before)
    assert t.order == [t.a, t.b] and mhc_compile.revert(t).order[0] is not t.a


def test_a_shallow_copy_shares_the_parts_and_takes_none_with_it():
    t = net(Lit)
    want = t(X)
    other = copy.copy(t)
    assert_close(other.net(X), want)
    del other
    gc.collect()
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        assert_close(t.net(X), want)


def test_all_children_but_the_head_are_a_feature_extractor():
    t = moved(Features())
    features = nn.Sequential(*list(t.children())[:-1])
    assert_close(t.head(features(X)), t(X))
    assert list(t.children())[-1] is t.head
    assert list(t.features[1].children())[-1] is t.features[1].drop


def test_a_model_that_calls_its_own_children_sees_no_others():
    class Calling(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.first, self.second, self.last = Block(), Block(), nn.Linear(WIDTH, 4)
            self.calls = 0

        def forward(self, x: Tensor) -> Tensor:
            self.calls += 1  # so that it goes through Dynamo
            for layer in list(self.children())[:2]:
                x = layer(x)
            return list(self.children())[-1](x)

    model = Calling()
    t = mhc_compile.transform(model, example_inputs=(X,), modes=("train",))
    assert_close(t(X), model(X))


def test_models_of_one_class_are_of_one_class():
    assert type(net(Lit)) is type(moved(Lit()))


def test_features_are_those_inside_the_model():
    t = moved(Features())
    assert_close(t.head(t.forward_features(X)), t(X))


def test_a_model_in_a_larger_one_runs_as_it_is_and_keeps_the_larger_one_from_being_transformed():
    class Outer(nn.Module):
        def __init__(self, inner: nn.Module) -> None:
            super().__init__()
            self.inner = inner

        def forward(self, x: Tensor) -> Tensor:
            return self.inner(x)

    t = net()
    outer = Outer(t)
    assert_close(outer(X), t(X))
    assert_close(copy.deepcopy(outer)(X), t(X))
    with pytest.raises(MhcError, match="inner already has hyper-connections"):
        mhc_compile.transform(outer, example_inputs=(X,))


def grown(blocks: nn.ModuleList) -> None:
    blocks.append(Block())


def grown_in_front(blocks: nn.ModuleList) -> None:
    blocks.insert(0, Block())


@pytest.mark.parametrize("change", [grown, grown_in_front])
def test_a_block_that_came_after_transform_is_named_with_what_to_write(change):
    t = net()
    change(t.blocks)
    with pytest.raises(CaptureError, match=r"blocks\.[02] came into the model after transform.*revert\(model\)"):
        t(X)
