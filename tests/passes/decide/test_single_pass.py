"""`mhc-single-pass` against its formula, written out: a branch reads with the weights of the site before."""

from __future__ import annotations

from collections.abc import Callable

import pytest
import torch
from torch import Tensor, nn

import mhc_compile
from mhc_compile.kernels.formulas.projections import PROJECTIONS
from mhc_compile.kernels.formulas.reference import manifold_coefficients
from tests.moved import move

C, n = 6, 4
X = torch.randn(3, 4, 4, C, dtype=torch.float64, generator=torch.Generator().manual_seed(0))


class Net(nn.Module):
    """Three branches on one stream; what happens between them is given."""

    def __init__(self, between: Callable[[Tensor], Tensor] = lambda x: x) -> None:
        super().__init__()
        self.f = nn.ModuleList(nn.Linear(C, C, dtype=torch.float64) for _ in range(3))
        self.between = between

    def forward(self, x: Tensor) -> Tensor:
        for f in self.f:
            x = self.between(x + torch.tanh(f(x)))
        return x


def converted(model: nn.Module, **options: object) -> nn.Module:
    options = {"example_inputs": (X,), "modes": ("eval",), "connection": "mhc-single-pass", **options}
    return mhc_compile.transform(model.eval(), n=n, **options)


def weighted(weights: Tensor | list[Tensor], streams: Tensor) -> Tensor:
    return sum(weights[k] * streams[k] for k in range(n))


def site(model: nn.Module, i: int, streams: Tensor, u: Tensor) -> tuple[Tensor, list[Tensor]]:
    """The streams that site `i` writes, whose branch reads `u`, and the weights that the next site reads them with."""
    new = model.hyper_connections[f"f.{i}"]
    params = [new.phi, new.alpha, new.bias]
    pre, post, R = manifold_coefficients(streams, params, n=n, axis=3, matrix=PROJECTIONS["sinkhorn"].matrix)
    y = torch.tanh(model.f[i](u))
    return torch.stack([weighted(R[i], streams) + post[i] * y for i in range(n)]), pre


def by_formula(
    model: nn.Module, between: Callable[[Tensor], Tensor] = lambda x: x, tokens_move: bool = False
) -> Tensor:
    streams, u = X.expand(n, *X.shape), X
    for i in range(len(model.f)):
        written, pre = site(model, i, streams, u)
        streams = torch.stack([between(stream) for stream in written])
        u = streams.mean(0) if tokens_move else weighted(pre, streams)
    return between(weighted(pre, written))  # behind the last site there is one tensor again


@pytest.mark.parametrize("between", [lambda x: x, torch.nn.functional.gelu], ids=["linear", "nonlinear"])
def test_function_and_gradients_are_those_of_the_formula(between):
    model = Net(between)
    made = converted(model)
    torch.testing.assert_close(made(X), model(X), rtol=0, atol=1e-12)
    move(made)
    parameters = dict(made.named_parameters())
    weights = torch.randn_like(X)
    found = torch.autograd.grad((made(X) * weights).sum(), list(parameters.values()))
    expected = torch.autograd.grad((by_formula(made, between) * weights).sum(), list(parameters.values()))
    torch.testing.assert_close(made(X), by_formula(made, between), rtol=0, atol=1e-10)
    for name, one, other in zip(parameters, found, expected, strict=True):
        torch.testing.assert_close(one, other, rtol=0, atol=1e-9, msg=lambda text, name=name: f"{name}: {text}")
        assert one.abs().sum() > 0


def test_it_is_another_function_than_mhc_once_moved():
    model = Net()
    single, double = (move(converted(model, connection=c)) for c in ("mhc-single-pass", "mhc"))
    with torch.no_grad():
        for one, other in zip(
            double.hyper_connections.parameters(), single.hyper_connections.parameters(), strict=True
        ):
            one.copy_(other)
    assert (single(X) - double(X)).abs().max() > 1e-3


@pytest.mark.parametrize(
    "between", [lambda x: x.transpose(1, 2), lambda x: x.roll(1, 1), lambda x: x[:, 1:]], ids=["axes", "rolled", "cut"]
)
def test_where_tokens_move_a_site_is_read_with_equal_weights_and_the_plan_says_so(between):
    model = Net(between)
    made = converted(model)
    torch.testing.assert_close(made(X), model(X), rtol=0, atol=1e-12)
    torch.testing.assert_close(move(made)(X), by_formula(made, between, tokens_move=True), rtol=0, atol=1e-10)
    assert any("2 sites with equal weights" in note for note in made.mhc_plan.notes)
    assert not converted(Net()).mhc_plan.notes


def test_sites_that_read_the_same_streams_read_with_the_same_weights():
    class Fork(Net):
        def forward(self, x: Tensor) -> Tensor:
            x = x + torch.tanh(self.f[0](x))
            return torch.stack([x + torch.tanh(self.f[1](x)), x + torch.tanh(self.f[2](x))])

    model = Fork()
    made = converted(model)
    torch.testing.assert_close(made(X), model(X), rtol=0, atol=1e-12)
    move(made)(X).sum().backward()
    assert all(p.grad is not None and p.grad.abs().sum() > 0 for p in made.hyper_connections.parameters())
    streams, pre = site(made, 0, X.expand(n, *X.shape), X)
    ends = [site(made, i, streams, weighted(pre, streams)) for i in (1, 2)]
    expected = torch.stack([weighted(pre, written) for written, pre in ends])
    torch.testing.assert_close(made(X), expected, rtol=0, atol=1e-10)


def test_a_learned_readout_and_a_sum_stay_what_they_are():
    model = Net()
    torch.testing.assert_close(converted(model, reduce="learned")(X), model(X), rtol=0, atol=1e-12)
    made = converted(model, reduce="sum", init="random")
    assert 2 < (made(X) / model(X)).median() < n + 2


@pytest.mark.parametrize(("between", "moves"), [(lambda x: x.roll(1, 1), True), (lambda x: 2 * x, False)])
def test_a_plan_says_in_front_of_which_sites_tokens_change_places(between, moves):
    sites = mhc_compile.plan(Net(between).eval(), n=n, example_inputs=(X,)).sites
    assert [(s.before, s.moves_tokens) for s in sites] == [("", False), ("f.0", moves), ("f.1", moves)]


@pytest.mark.parametrize(("reduce", "told"), [("mean", True), ("learned", False)])
def test_so_it_is_for_a_readout_where_tokens_have_moved(reduce, told):
    class Watched(Net):
        def forward(self, x: Tensor) -> tuple[Tensor, Tensor]:
            x = x + torch.tanh(self.f[0](x))
            x = x.roll(1, 1)
            seen = x.square()
            for f in self.f[1:]:
                x = x + torch.tanh(f(x))
            return x, seen

    notes = converted(Watched(), reduce=reduce).mhc_plan.notes
    assert any("1 readouts with equal weights" in note for note in notes) == told
