"""Train and eval mode are one function: where streams end in one of them, they end in the other."""

from __future__ import annotations

import warnings

import pytest
import torch
from torch import nn

import mhc_compile
from mhc_compile.errors import StreamsCutWarning
from tests.moved import move
from tests.tables import also
from tests.toy_models import WIDTH

X = torch.randn(2, 5, WIDTH, dtype=torch.float64, generator=torch.Generator().manual_seed(0))


class Itself(torch.autograd.Function):
    @staticmethod
    def forward(ctx, x):
        return x.clone()

    @staticmethod
    def backward(ctx, grad):
        return grad


BETWEEN = {
    "a function with a derivative of its own": Itself.apply,
    "noise by what is there": lambda x: x + 0 * torch.randn_like(x) * x.detach().std(),
    "a transform and back": lambda x: torch.fft.ifft(torch.fft.fft(x)).real,
    "an order": lambda x: torch.sort(x, 1)[0] * 0 + x,
}


class Differs(nn.Module):
    """Four layers; behind the second one something stands in one mode, and nothing in the other."""

    def __init__(self, between, training: bool) -> None:
        super().__init__()
        self.layers = nn.ModuleList(nn.Linear(WIDTH, WIDTH) for _ in range(4))
        self.between, self.where = between, training

    def forward(self, x):
        for i, layer in enumerate(self.layers):
            x = x + layer(x).tanh()
            if i == 1 and self.training is self.where:
                x = self.between(x)
        return x


@pytest.mark.parametrize("made_in", [True, *also(False)])
@pytest.mark.parametrize("where", [True, False], ids=["in train", "in eval"])
@pytest.mark.parametrize("name", [next(iter(BETWEEN)), *also(*list(BETWEEN)[1:])])
def test_a_segment_that_ends_in_one_mode_ends_in_both(name, where, made_in):
    model = Differs(BETWEEN[name], where).double().train(made_in)
    twin = move(mhc_compile.transform(model, n=2, example_inputs=(X,), verify=True))
    assert [len(segment.sites) for segment in twin.mhc_plan.segments] == [2, 2]
    for x in (X, X[:1], torch.cat([X, X], 1)):
        torch.testing.assert_close(twin.train()(x), twin.eval()(x))
    noted = any("in another mode" in note for note in twin.mhc_plan.notes)
    assert noted == (where is not made_in)


class Forks(Differs):
    """Two chains go on from the second layer, one of them behind what stands there in one mode."""

    def forward(self, x):
        for layer in self.layers[:2]:
            x = x + layer(x).tanh()
        a = self.between(x) if self.training is self.where else x
        return a + self.layers[2](a).tanh(), x + self.layers[3](x).tanh()


@pytest.mark.parametrize("where", [True, False], ids=["in train", "in eval"])
def test_so_does_one_where_streams_fork_and_nobody_is_warned(where):
    twin = move(mhc_compile.transform(Forks(Itself.apply, where).double(), n=2, example_inputs=(X,), verify=True))
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        torch.testing.assert_close(twin.train()(X), twin.eval()(X))
        with torch.no_grad():
            torch.testing.assert_close(twin.train()(X), twin.eval()(X))


def test_a_mode_that_is_traced_later_ends_its_segments_where_the_first_does():
    model = Differs(Itself.apply, True).double()
    twin = move(mhc_compile.transform(model, n=2, example_inputs=(X,), modes=("train",)))
    torch.testing.assert_close(twin.train()(X), twin.eval()(X))
    assert not torch.allclose(twin(X), model(X))


def test_a_mode_that_ends_them_and_is_traced_too_late_says_so():
    model = Differs(Itself.apply, False).double()
    twin = mhc_compile.transform(model, n=2, example_inputs=(X,), modes=("train",))
    with pytest.warns(StreamsCutWarning, match="which was traced before"):
        twin.eval()(X)


def test_modes_that_agree_are_left_as_they_are():
    model = Differs(nn.Identity(), True).double()
    twin = mhc_compile.transform(model, n=2, example_inputs=(X,))
    assert [len(segment.sites) for segment in twin.mhc_plan.segments] == [4] and twin.mhc_plan.notes == ()


@pytest.mark.parametrize("where", [True, False], ids=["in train", "in eval"])
def test_so_it_is_behind_the_backend_where_both_modes_were_looked_at(where):
    torch.compiler.reset()
    model = Differs(Itself.apply, where).double()
    backend = mhc_compile.backend(n=2, inner="eager")
    backend.attach(model, (X,))
    move(model)
    compiled = torch.compile(model, backend=backend)
    outputs = [compiled(X) for mode in (True, False) if model.train(mode) is model]
    torch.testing.assert_close(*outputs)


def test_a_backend_that_learns_of_a_mode_too_late_says_so():
    torch.compiler.reset()
    model = Differs(Itself.apply, False).double()
    compiled = torch.compile(model, backend=mhc_compile.backend(n=2, inner="eager"))
    compiled(X)
    model.eval()
    with pytest.warns(StreamsCutWarning, match="which was traced before"):
        compiled(X)
