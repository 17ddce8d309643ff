"""Sums elsewhere than in the `forward` that was traced: methods have hyper-connections, loops outside are told of."""

from __future__ import annotations

import copy
import pickle
import warnings

import pytest
import torch
from torch import Tensor, nn
from torch.testing import assert_close

import mhc_compile
from mhc_compile.errors import MissingSitesWarning, PlainBranchError, PlainBranchWarning, StreamsCutWarning
from tests.moved import X, moved
from tests.toy_models import WIDTH


def residual(branch: nn.Module, x: Tensor) -> Tensor:
    """A sum in a function of its own."""
    return x + branch(x)


class Flat(nn.Module):
    """A model whose sums stand in its `forward`, and in other methods."""

    def __init__(self) -> None:
        super().__init__()
        branch = lambda: nn.Sequential(nn.LayerNorm(WIDTH), nn.Linear(WIDTH, WIDTH), nn.GELU())
        self.blocks = nn.ModuleList(branch() for _ in range(3))
        self.last = nn.Linear(WIDTH, WIDTH)
        self.calls = 0

    def forward(self, x: Tensor) -> Tensor:
        for block in self.blocks:
            x = x + block(x)
        return x + self.last(x)

    encode = forward

    def step(self, x: Tensor) -> Tensor:
        for block in self.blocks:
            x = x + block(x)
        return x + self.last(x)

    def with_helper(self, x: Tensor) -> Tensor:
        for block in (*self.blocks, self.last):
            x = residual(block, x)
        return x

    def one_by_one(self, x: Tensor) -> Tensor:
        def states():
            h = x
            for block in (*self.blocks, self.last):
                h = h + block(h)
                yield h

        return list(states())[-1]

    def one(self, x: Tensor, i: int) -> Tensor:
        return x + self.blocks[i](x)

    def branch(self, x: Tensor, i: int = 0) -> Tensor:
        return self.blocks[i](x)

    def frozen(self, yes: bool) -> int:
        self.blocks.requires_grad_(not yes)
        self.calls += 1
        return self.calls


def outside(model: Flat, x: Tensor) -> Tensor:
    """A loop of the user's own."""
    for block in model.blocks:
        x = x + block(x)
    return x + model.last(x)


@pytest.fixture
def flat():
    torch.manual_seed(0)
    return moved(Flat())


METHODS = ["encode", "step", "with_helper", "one_by_one"]


@pytest.mark.parametrize("name", METHODS)
def test_a_method_that_the_example_call_did_not_run_has_the_hyper_connections(name, flat):
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        found = getattr(flat, name)(X)
    assert_close(found, flat(X))
    found.sum().backward()
    assert all(p.grad is not None for p in flat.hyper_connections.parameters())


@pytest.mark.parametrize("name", METHODS)
def test_a_copy_has_such_methods_and_a_plain_model_its_own(name, flat):
    twin = copy.deepcopy(flat)
    assert_close(getattr(twin, name)(X), flat(X))
    with torch.no_grad():
        for parameter in twin.hyper_connections.parameters():
            parameter.zero_()
    assert not torch.allclose(getattr(twin, name)(X), flat(X))
    plain = mhc_compile.revert(flat)
    assert_close(getattr(plain, name)(X), plain(X))


def test_a_method_with_one_of_the_sums_says_that_it_cuts_the_streams(flat):
    with pytest.warns(StreamsCutWarning, match="one is called by itself and holds 1 of the 4 sites"):
        found = flat.one(X, 1)
    assert not torch.allclose(found, mhc_compile.revert(flat).one(X, 1))


def test_a_method_without_a_sum_computes_what_it_did(flat):
    with warnings.catch_warnings():
        warnings.simplefilter("error", MissingSitesWarning)
        found = flat.branch(X)
    assert_close(found, mhc_compile.revert(flat).branch(X))


def test_a_method_that_is_given_no_tensor_runs_as_it_is(flat):
    assert flat.frozen(True) == 1 and flat.frozen(False) == 2
    assert all(p.requires_grad for p in flat.blocks.parameters())


def test_a_loop_of_the_users_own_over_branches_is_told_of_once(flat):
    with pytest.warns(PlainBranchWarning, match=r"blocks\.0 is called by itself.*write the sum in a method") as told:
        found = outside(flat, X)
    assert len([w for w in told if w.category is PlainBranchWarning]) == 1
    assert_close(found, outside(mhc_compile.revert(flat), X))
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        outside(flat, X)


def test_under_strict_it_is_an_error():
    model = mhc_compile.transform(Flat(), n=2, example_inputs=(X,), strict=True)
    with pytest.raises(PlainBranchError, match=r"blocks\.0 is called by itself"):
        outside(model, X)
    model(X)


def test_a_compiled_loop_is_told_of_as_well(flat):
    torch.compiler.reset()
    with pytest.warns(PlainBranchWarning, match=r"blocks\.0 is called by itself"):
        found = torch.compile(outside, backend="eager")(flat, X)
    assert_close(found, outside(mhc_compile.revert(flat), X))


@pytest.mark.parametrize("copied", [copy.deepcopy, lambda m: pickle.loads(pickle.dumps(m))])
def test_a_branch_that_was_copied_alone_is_nobodys(copied, flat):
    expected = mhc_compile.revert(flat).blocks[0](X)
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        assert_close(copied(flat.blocks[0])(X), expected)


def test_what_is_inside_a_branch_is_looked_at_freely(flat):
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        flat.blocks[0][1](X)


class Box:
    """An input that is no tensor, and no container that PyTorch knows."""

    def __init__(self, x: Tensor) -> None:
        self.x = x


class Boxed(Flat):
    def forward(self, x: Tensor) -> Tensor:
        return self.features(Box(x))

    def features(self, box: Box) -> Tensor:
        x = box.x
        for block in self.blocks:
            x = x + block(x)
        return x


def test_a_method_with_sums_of_the_plan_is_a_door_whatever_it_is_given():
    t = moved(Boxed())
    assert_close(t.features(Box(X)), t(X))
    assert not torch.allclose(t(X), mhc_compile.revert(t)(X))
