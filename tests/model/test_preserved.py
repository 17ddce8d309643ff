from __future__ import annotations

import copy

import pytest
import torch
from torch import nn

import mhc_compile
from mhc_compile.errors import NotPreservingError, NotPreservingWarning
from tests.copies import copied
from tests.tables import also
from tests.toy_models import WIDTH, Block, Tower

X = torch.randn(2, 3, WIDTH, generator=torch.Generator().manual_seed(0))


class PostNorm(nn.Module):
    """`norm(x + f(x))`: streams stay equal, reads are unequal."""

    def __init__(self):
        super().__init__()
        self.layers = nn.ModuleList(nn.Linear(WIDTH, WIDTH) for _ in range(3))
        self.norms = nn.ModuleList(nn.LayerNorm(WIDTH) for _ in range(3))

    def forward(self, x):
        for layer, norm in zip(self.layers, self.norms, strict=True):
            x = norm(x + torch.tanh(layer(x)))
        return x


def transformed(model=None, **options):
    return mhc_compile.transform(model, **{"n": 4, "example_inputs": (X,), **options}) if model else tower(**options)


@copied
def tower(**options):
    return transformed(Tower(), **{"modes": ("train",), **options})


def step(model, parameters):
    optimizer = torch.optim.SGD(parameters, lr=0.1)
    model(X).square().mean().backward()
    optimizer.step()


CONNECTIONS = ("residual", "hc", "hc-static", "mhc", "mhc-single-pass", "mhc-lite", "identity")


@pytest.mark.parametrize(
    ("model", "connection"),
    [
        *((Tower, connection) for connection in CONNECTIONS),
        (PostNorm, "mhc"),
        *also(*((PostNorm, connection) for connection in CONNECTIONS if connection != "mhc")),
    ],
)
def test_fresh_models_are_preserving_whatever_the_connection(model, connection, recwarn):
    plain = mhc_compile.revert(transformed(model(), connection=connection, modes=("train",)), strict=True)
    assert type(plain) is model and not [w for w in recwarn if w.category is NotPreservingWarning]


@pytest.mark.parametrize("options", [{"n": 1}, {"n": 2}, {"n": 8}, {"reduce": "learned"}, {"modes": ("eval",)}])
def test_fresh_models_are_preserving_whatever_the_options(options):
    assert type(mhc_compile.revert(transformed(**options), strict=True)) is Tower


def test_fp64_models_are_preserving():
    twin = mhc_compile.transform(Tower().double(), n=3, example_inputs=(X.double(),), modes=("train",))
    assert mhc_compile.revert(twin, strict=True).stem.weight.dtype == torch.float64


@pytest.mark.parametrize("dtype", [torch.float64, torch.bfloat16])
def test_casts_are_no_training(dtype):
    mhc_compile.revert(transformed().to(dtype), strict=True)


def test_frozen_hyper_connections_stay_so_while_the_model_trains():
    twin = transformed()
    twin.hyper_connections.requires_grad_(False)
    before = copy.deepcopy(twin.state_dict())
    step(twin, [p for p in twin.parameters() if p.requires_grad])
    assert not torch.equal(before["stem.weight"], twin.stem.weight)
    plain = mhc_compile.revert(twin, strict=True)
    assert torch.allclose(plain(X), twin(X), rtol=1e-4, atol=1e-5)


def test_one_step_ends_it_and_the_error_names_the_parameter():
    twin = transformed()
    step(twin, twin.parameters())
    with pytest.raises(NotPreservingError, match=r"hyper_connections\['blocks.0'\]\.\w+ is .* away.*requires_grad_"):
        mhc_compile.revert(twin, strict=True)
    with pytest.warns(NotPreservingWarning, match="Tower computes something else"):
        assert type(mhc_compile.revert(twin)) is Tower


def test_a_single_scalar_is_enough():
    twin = transformed()
    key = twin.mhc_plan.sites[-1].key
    with torch.no_grad():
        twin.hyper_connections[key].bias[-1] += 1e-3
    with pytest.raises(NotPreservingError, match=rf"\['{key}'\]\.bias is 1.0e-03 away"):
        mhc_compile.revert(twin, strict=True)


def test_values_that_are_no_numbers_have_moved():
    twin = transformed()
    with torch.no_grad():
        twin.hyper_connections[twin.mhc_plan.sites[0].key].phi[0, 0] = float("nan")
    with pytest.raises(NotPreservingError, match="nan away"):
        mhc_compile.revert(twin, strict=True)


def test_random_and_summed_streams_never_were():
    with pytest.raises(NotPreservingError, match="phi is"):
        mhc_compile.revert(transformed(init="random"), strict=True)
    with pytest.raises(NotPreservingError, match="multiplies the residual stream by n=4"):
        mhc_compile.revert(transformed(init="random", reduce="sum"), strict=True)


def test_sites_of_the_second_mode_are_checked_too():
    class OtherWay(nn.Module):
        def __init__(self):
            super().__init__()
            self.training_path, self.other = nn.Sequential(Block(), Block()), nn.Sequential(Block(), Block())

        def forward(self, x):
            return self.training_path(x) if self.training else self.other(x)

    twin = transformed(OtherWay())
    mhc_compile.revert(twin, strict=True)
    with torch.no_grad():
        twin.hyper_connections["other.0"].alpha.zero_()
    with pytest.raises(NotPreservingError, match=r"other.0"):
        mhc_compile.revert(twin, strict=True)


def test_copies_know_their_initial_values():
    twin = copy.deepcopy(transformed())
    mhc_compile.revert(twin, strict=True)
