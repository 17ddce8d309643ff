"""A part or a method that is called from outside has the hyper-connections of the model: it is a door."""

from __future__ import annotations

import copy
import pickle
import threading
import warnings
from typing import Any

import pytest
import torch
from torch import Tensor, nn
from torch.testing import assert_close

import mhc_compile
from mhc_compile.errors import CaptureError
from tests.model.called_parts import Lit
from tests.moved import X, moved, net
from tests.toy_models import WIDTH, Block


def test_a_method_that_calls_a_part_has_the_hyper_connections_and_trains_them():
    t = net(Lit)
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        loss = t.training_step(X)
    assert_close(loss, t(X).square().mean())
    loss.backward()
    assert all(p.grad is not None for p in t.hyper_connections.parameters())


@pytest.mark.parametrize("call", [lambda t: t.forward(X), lambda t: t.net.forward(X)])
def test_forward_itself_is_a_call(call):
    t = net(Lit)
    assert_close(call(t), t(X))


@pytest.mark.parametrize("connection", ["attention:layers=1", "dense"])
def test_a_part_has_the_sites_without_parameters_too(connection):
    """The first site over sources reads the one that there is, and learns nothing."""
    t = moved(Lit(), connection=connection)
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        assert_close(t.training_step(X), t(X).square().mean())


def test_methods_that_call_the_model_are_calls_of_it():
    t = net(Lit)
    assert_close(t.score(X), t(X)[:, -1])
    assert torch.equal(t.predict(X), t(X).argmax(-1))


class Delegating(nn.Module):
    """Hands on attributes that it does not have, as PEFT's wrappers do."""

    def __init__(self) -> None:
        super().__init__()
        self.inner = Lit()

    def __getattr__(self, name: str) -> Any:
        try:
            return super().__getattr__(name)
        except AttributeError:
            return getattr(super().__getattr__("inner"), name)

    def forward(self, x: Tensor) -> Tensor:
        return self.inner(x)


class Renamed(nn.Module):
    """Calls a part by its second name."""

    def __init__(self) -> None:
        super().__init__()
        self.body = nn.Sequential(Block(), Block())
        self.net = self.body

    def forward(self, x: Tensor) -> Tensor:
        return self.net(x)


@pytest.mark.parametrize(
    ("make", "part"), [(Delegating, lambda t: t.inner.net), (Delegating, lambda t: t.net), (Renamed, lambda t: t.body)]
)
def test_a_part_is_a_door_by_whatever_way_the_code_comes_to_it(make, part):
    t = net(make)
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        assert_close(part(t)(X), t(X))


class Methodical(nn.Module):
    """Its residual connections stand in a method that is not its forward."""

    def __init__(self) -> None:
        super().__init__()
        self.first, self.second, self.head = (nn.Linear(WIDTH, WIDTH) for _ in range(3))
        self.gain = 1.0

    def features(self, x: Tensor, *, twice: bool = False) -> Tensor:
        for layer in (self.first, self.second) * (2 if twice else 1):
            x = x + self.gain * torch.tanh(layer(x))
        return x

    def forward(self, x: Tensor) -> Tensor:
        return self.head(self.features(x))


class Around(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.inner = Methodical()

    def forward(self, x: Tensor) -> Tensor:
        return self.inner.head(self.inner.features(x))


@pytest.mark.parametrize("make", [Methodical, Around])
def test_a_method_with_residual_connections_of_its_own_is_a_door(make):
    t = moved(make())
    part = t if make is Methodical else t.inner
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        assert_close(part.head(part.features(x=X)), t(X))
        part.gain = 0.5
        assert_close(part.head(part.features(X)), t(X))
    assert len(t._mhc.entries) == 2
    for other in (copy.deepcopy(t), pickle.loads(pickle.dumps(t))):
        assert_close((other if make is Methodical else other.inner).features(X), part.features(X))
    plain = mhc_compile.revert(t)
    assert "features" not in vars(plain if make is Methodical else plain.inner)


class Base(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.layers = nn.ModuleList(nn.Linear(WIDTH, WIDTH) for _ in range(2))

    def forward(self, x: Tensor) -> Tensor:
        for layer in self.layers:
            x = x + layer(x).tanh()
        return x


class PastTheModule(Base):
    def by_super(self, x: Tensor) -> Tensor:
        return super().forward(x)

    def by_name(self, x: Tensor) -> Tensor:
        return Base.forward(self, x)

    def by_itself(self, x: Tensor) -> Tensor:
        return self.forward(x)

    def wrap(self, around: object) -> list[str]:
        inner = self.forward  # as torchtitan's `parallelize`, which asks `isinstance(child, Base)`
        self.forward = lambda *args: inner(*args)  # type: ignore[method-assign]
        return [name for name, child in self.named_modules() if isinstance(child, Base)]


@pytest.mark.parametrize("name", ["by_super", "by_name", "by_itself"])
@pytest.mark.parametrize("inside", [False, True], ids=["model", "part"])
def test_a_method_that_calls_the_forward_of_a_class_is_a_door(name, inside):
    t = moved(nn.Sequential(PastTheModule()) if inside else PastTheModule())
    part = t[0] if inside else t
    assert_close(getattr(part, name)(X), t(X))
    assert not torch.allclose(t(X), mhc_compile.revert(t)(X))


def test_a_part_is_called_while_another_model_is_traced_in_a_thread():
    t, other, errors = moved(nn.Sequential(Block(), Block())), nn.Sequential(Block(), Block()), []
    expected = t[1](X)
    thread = threading.Thread(target=lambda: mhc_compile.transform(other, n=2, example_inputs=(X,)))
    thread.start()
    while thread.is_alive():
        try:
            out = t[1](X)
            out.sum().backward()
            assert_close(out, expected)
        except CaptureError as error:
            errors.append(error)
            break
    thread.join()
    assert not errors


def test_an_export_of_a_part_says_what_to_do():
    t = net(Lit).eval()
    t.net(X)
    with pytest.raises(CaptureError, match="net is a part of a transformed Lit"):
        torch.export.export(t.net, (X,), strict=False)


def test_a_method_that_asks_for_a_class_and_wraps_the_forward_is_none():
    t = moved(PastTheModule())
    before = t(X)
    assert t.wrap(object()) == [""]
    assert_close(t(X), before)
