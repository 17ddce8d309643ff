from __future__ import annotations

import pytest
import torch
from torch import nn

import mhc_compile
from mhc_compile.errors import (
    InputMismatchError,
    MissingInputsError,
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


def test_keyword_inputs():
    twin = mhc_compile.transform(Tower(), n=2, example_kwargs={"x": X, "gain": 2.0}, modes=("train",))
    before = len(twin._mhc.programs)
    twin(gain=2.0, x=X)
    assert len(twin._mhc.programs) <= before + 1  # another order of keywords may be another trace


def test_a_single_tensor_stands_for_a_tuple():
    assert mhc_compile.plan(Tower(), example_inputs=X) == mhc_compile.plan(Tower(), example_inputs=(X,))


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


def test_nothing_to_transform_returns_the_model_itself_with_a_warning():
    model = nn.Sequential(nn.Linear(4, 4), nn.ReLU())
    before = set(vars(model))
    with pytest.warns(NothingToTransformWarning, match="unchanged"):
        out = mhc_compile.transform(model, n=2, example_inputs=(torch.randn(2, 4),))
    assert out is model and set(vars(model)) == before
    with pytest.raises(NothingToTransformError, match="include, exclude and min_sites"):
        mhc_compile.transform(model, n=2, example_inputs=(torch.randn(2, 4),), strict=True)


class Declares(Tower):
    """Declares inputs in one of the ways that libraries do."""

    def __init__(self, **declared):
        super().__init__()
        vars(self).update(declared)


@pytest.mark.parametrize(
    "declared",
    [
        {"dummy_inputs": {"x": X}},
        {"pretrained_cfg": {"input_size": (3, WIDTH)}},
        {"default_cfg": {"input_size": (3, WIDTH)}},
        {"example_input_array": X},
        {"example_input_array": (X, None)},
        {"example_input_array": {"x": X}},
        {"dummy_inputs": {"input_ids": X}, "example_input_array": X},
    ],
    ids=["hf", "timm", "timm old", "lightning", "tuple", "dict", "first does not fit"],
)
def test_declared_inputs_are_used(declared):
    assert len(mhc_compile.plan(Declares(**declared), n=2).sites) == 3


def test_declared_inputs_follow_device_and_dtype():
    model = Declares(example_input_array=X).double().to("meta")
    plan = mhc_compile.plan(model, n=2)
    assert len(plan.sites) == 3 and plan.sites[0].dtype.endswith("float64")


def test_given_inputs_win_over_declared_ones():
    model = Declares(example_input_array=torch.randn(2, 5))
    assert len(mhc_compile.plan(model, n=2, example_inputs=(X,)).sites) == 3
    with pytest.raises(InputMismatchError):
        mhc_compile.plan(model, n=2)


def test_untraceable_model_without_inputs_is_told_the_call():
    class Loops(Block):
        def forward(self, x):
            return super().forward(x) if x.sum() > 0 else x

    with pytest.raises(MissingInputsError, match=r"example_inputs=\(torch.randn"):
        mhc_compile.transform(Loops(), n=2)


class Functional(nn.Module):
    """A residual whose width no module tells."""

    def __init__(self):
        super().__init__()
        self.weight = nn.Parameter(torch.randn(WIDTH, WIDTH))

    def forward(self, x):
        return x + torch.tanh(x @ self.weight)


def test_residual_model_without_inputs_is_told_that_sizes_are_missing():
    with pytest.raises(MissingInputsError, match=r"sizes .* are unknown.*example_inputs=\(torch.randn"):
        mhc_compile.transform(Functional(), n=2)


def test_modules_tell_the_width_where_no_inputs_are_given():
    model = nn.Sequential(Block(), Block()).eval()
    transformed = mhc_compile.transform(model, n=2)
    keys = [s.key for s in mhc_compile.plan(model, n=2, example_inputs=torch.randn(2, WIDTH)).sites]
    assert [s.key for s in transformed.mhc_plan.sites] == keys
    other = torch.randn(3, WIDTH)
    with torch.no_grad():
        torch.testing.assert_close(transformed(other), model(other))


def test_no_inputs_are_needed_to_see_that_there_is_no_residual_connection():
    assert mhc_compile.plan(nn.Sequential(nn.Linear(4, 4), nn.ReLU())).sites == ()


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
