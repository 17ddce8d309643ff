"""`plan`, `transform` and `revert`: the function and the dtypes are kept, modes chosen, the plain model given back."""

from __future__ import annotations

import pickle

import pytest
import torch
from torch import nn

import mhc_compile
from mhc_compile.errors import (
    NothingToTransformError,
    NothingToTransformWarning,
    NotTransformedError,
)
from tests.toy_models import WIDTH, Block, Normalised, Tower

X = torch.randn(2, 3, WIDTH, generator=torch.Generator().manual_seed(0))


def test_plan_changes_nothing_and_agrees_with_transform():
    model = Tower()
    before = set(vars(model))
    plan = mhc_compile.plan(model, n=2, example_inputs=(X,))
    assert set(vars(model)) == before and type(model) is Tower
    assert len(plan.sites) == 3 and plan.n == 2
    twin = mhc_compile.transform(model, n=2, example_inputs=(X,), modes=("train",))
    assert [s.key for s in twin.mhc_plan.sites] == [s.key for s in plan.sites]
    assert sum(p.numel() for p in twin.hyper_connections.parameters()) == plan.parameters


def test_plan_of_a_meta_model():
    with torch.device("meta"):
        plan = mhc_compile.plan(Tower(), n=4, example_inputs=(torch.empty(2, 3, WIDTH),))
    assert len(plan.sites) == 3


@pytest.mark.parametrize("n", [1, 2, 3, 4])
def test_function_is_preserved_in_double_precision(n):
    model, x = Tower().double(), X.double()
    twin = mhc_compile.transform(model, n=n, example_inputs=(x,), modes=("train",))
    expected = model(x)
    assert (twin(x) - expected).abs().max() <= 1e-10 * expected.square().mean().sqrt()


@pytest.mark.parametrize(("dtype", "expected"), [(torch.float64, torch.float64), (torch.bfloat16, torch.float32)])
def test_new_parameters_are_fp32_or_fp64(dtype, expected):
    twin = mhc_compile.transform(Tower().to(dtype), n=2, example_inputs=(X.to(dtype),), modes=("train",))
    assert {p.dtype for p in twin.hyper_connections.parameters()} <= {expected, torch.float32}
    assert twin.hyper_connections[twin.mhc_plan.sites[0].key].phi.dtype == expected


def test_new_parameters_of_a_meta_model_are_on_meta():
    with torch.device("meta"):
        twin = mhc_compile.transform(Tower(), n=2, example_inputs=(torch.empty(2, 3, WIDTH),), modes=("train",))
    assert {p.device.type for p in twin.parameters()} == {"meta"}


def test_flags_are_restored_after_tracing_both_modes():
    model = Normalised().train()
    model.bn.eval()
    flags = [m.training for m in model.modules()]
    twin = mhc_compile.transform(model, n=2, example_inputs=(torch.randn(4, WIDTH),))
    assert [m.training for m in model.modules()] == flags
    assert twin.training and not twin.bn.training


@pytest.mark.parametrize(("modes", "count"), [(("eval",), 1), ("train", 1), (("train", "eval"), 2)])
def test_modes_choose_what_is_traced_now(modes, count):
    twin = mhc_compile.transform(Tower(), n=2, example_inputs=(X,), modes=modes)
    assert len(twin._mhc.programs) == count


class TrainsBadly(Tower):
    def forward(self, x):
        if self.training and x.sum() > 0:
            x = x * 2
        return super().forward(x)


def test_failure_in_the_other_mode_says_how_to_leave_it_out():
    with pytest.raises(mhc_compile.errors.GraphBreakError, match=r"in train mode.*(?s:.*)modes=\('eval',\)"):
        mhc_compile.transform(TrainsBadly().eval(), n=2, example_inputs=(X,), strict=True)
    twin = mhc_compile.transform(TrainsBadly().eval(), n=2, example_inputs=(X,), modes=("eval",), strict=True)
    assert len(twin._mhc.programs) == 1


def test_revert_gives_the_trained_parameters_back():
    model = Tower()
    twin = mhc_compile.transform(model, n=2, example_inputs=(X,), modes=("train",))
    torch.optim.SGD(twin.parameters(), lr=0.1).zero_grad()
    twin(X).square().sum().backward()
    torch.optim.SGD(twin.parameters(), lr=0.01).step()
    plain = mhc_compile.revert(twin)
    assert type(plain) is Tower and set(vars(plain)) == set(vars(model))
    assert list(plain.state_dict()) == list(model.state_dict())
    assert plain.blocks[0].up.weight is twin.blocks[0].up.weight and torch.equal(plain(X), model(X))
    assert "hyper_connections" in dict(twin.named_children())


def test_reverted_model_can_be_transformed_again():
    given = {"example_inputs": (X,), "modes": ("train",)}
    plain = mhc_compile.revert(mhc_compile.transform(Tower(), n=2, **given))
    assert mhc_compile.transform(plain, n=3, **given).mhc_plan.n == 3


def test_revert_of_a_plain_model():
    with pytest.raises(NotTransformedError, match="transform returned"):
        mhc_compile.revert(Tower())


def test_nothing_to_transform_returns_the_model_itself_with_a_warning_and_an_empty_plan():
    model = nn.Sequential(nn.Linear(4, 4), nn.ReLU())
    before = set(vars(model))
    for _ in range(2):  # its plan is in nobody's way
        with pytest.warns(NothingToTransformWarning, match="unchanged"):
            out = mhc_compile.transform(model, n=2, example_inputs=(torch.randn(2, 4),))
    assert out is model and set(vars(model)) - before == {"mhc_plan"}
    assert not out.mhc_plan.sites and not pickle.loads(pickle.dumps(out)).mhc_plan.sites
    with pytest.raises(NothingToTransformError, match="include, exclude and min_sites"):
        mhc_compile.transform(model, n=2, example_inputs=(torch.randn(2, 4),), strict=True)


class WritesUnderAView(nn.Module):
    """A chain of writes into one tensor that an older view looks at."""

    def __init__(self):
        super().__init__()
        self.stem = nn.Linear(WIDTH, WIDTH)
        self.layers = nn.ModuleList(nn.Linear(WIDTH, WIDTH) for _ in range(4))

    def forward(self, x):
        x = self.stem(x)
        view = x[:, :1]
        for layer in self.layers:
            x += layer(x)
        return x.sum(0), view * 1.0


def test_a_chain_of_writes_seen_through_an_older_view_is_left_alone():
    model, x = WritesUnderAView().eval(), torch.randn(3, WIDTH)
    with pytest.warns(mhc_compile.errors.NothingToTransformWarning):
        transformed = mhc_compile.transform(model, n=4, example_inputs=x)
    with torch.no_grad():
        torch.testing.assert_close(transformed(x), model(x))


class FusedAdd(nn.Module):
    """`addmm` adds the stream itself, not a bias."""

    def __init__(self):
        super().__init__()
        self.weights = nn.ParameterList(torch.randn(WIDTH, WIDTH) / 4 for _ in range(3))

    def forward(self, x):
        for weight in self.weights:
            x = torch.addmm(x, torch.tanh(x), weight)
        return x


def test_a_residual_fused_into_addmm_is_a_site():
    model, x = FusedAdd().double(), torch.randn(3, WIDTH, dtype=torch.float64)
    transformed = mhc_compile.transform(model, n=4, example_inputs=x)
    assert len(transformed.mhc_plan.sites) == 3
    torch.testing.assert_close(transformed(x), model(x), rtol=1e-10, atol=1e-10)


def test_gradients_of_gradients_exist():
    model = nn.Sequential(Block(), Block())
    transformed = mhc_compile.transform(model, n=4, example_inputs=torch.randn(2, WIDTH))
    x = torch.randn(2, WIDTH, requires_grad=True)
    (first,) = torch.autograd.grad(transformed(x).square().sum(), x, create_graph=True)
    first.square().sum().backward()
    assert x.grad is not None and x.grad.isfinite().all()
