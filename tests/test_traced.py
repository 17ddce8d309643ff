from __future__ import annotations

import pytest
import torch
from torch import fx, nn
from torch.fx.experimental.proxy_tensor import make_fx

import mhc_compile
from mhc_compile.errors import (
    AlreadyTransformedError,
    InputMismatchError,
    InvalidOptionError,
    MissingInputsError,
    NotAModuleError,
    NothingToTransformWarning,
)
from tests.moved import move
from tests.toy_models import WIDTH, Tower

X = torch.randn(2, 3, WIDTH, generator=torch.Generator().manual_seed(0))


def close(a, b):
    return torch.allclose(a, b, rtol=1e-4, atol=1e-5)


def symbolic():
    return fx.symbolic_trace(Tower().eval(), concrete_args={"mask": None, "gain": 1.0})


def exported():
    return torch.export.export(Tower().eval(), (X,)).module()


@pytest.mark.parametrize(("make", "inputs"), [(symbolic, (X,)), (exported, None)])
def test_dialects(make, inputs):
    gm = make()
    code, names = gm.code, list(gm.state_dict())
    new, plan = mhc_compile.rewrite(gm, n=2, example_inputs=inputs)
    assert len(plan.sites) == 3 and close(new(X), gm(X))
    assert not close(move(new)(X), gm(X))
    assert gm.code == code and list(gm.state_dict()) == names
    assert set(names) < set(new.state_dict()) and set(new.hyper_connections) == {s.key for s in plan.sites}


def test_make_fx():
    model = Tower().eval()
    gm = make_fx(lambda x: model(x))(X)
    new, plan = mhc_compile.rewrite(gm, n=2)
    assert len(plan.sites) == 3 and close(new(X), model(X))
    assert not close(move(new)(X), model(X))


def test_parameters_are_shared_with_the_given_graph():
    gm = symbolic()
    new, _ = mhc_compile.rewrite(gm, n=2, example_inputs=X)
    assert new.get_parameter("blocks.0.up.weight") is gm.get_parameter("blocks.0.up.weight")
    assert not hasattr(gm, "hyper_connections")


def test_new_parameters_learn():
    new, _ = mhc_compile.rewrite(symbolic(), n=2, example_inputs=X)
    new(X).square().mean().backward()
    assert all(p.grad is not None for p in new.hyper_connections.parameters())


def test_graph_without_shapes_needs_inputs():
    with pytest.raises(MissingInputsError, match="example_inputs"):
        mhc_compile.rewrite(symbolic(), n=2)


def test_inputs_the_graph_cannot_run_on():
    with pytest.raises(InputMismatchError, match="cannot be run"):
        mhc_compile.rewrite(symbolic(), n=2, example_inputs=(torch.randn(2, 5),))


def test_a_plain_module_is_told_about_transform():
    with pytest.raises(NotAModuleError, match="transform"):
        mhc_compile.rewrite(Tower(), n=2)


def test_rewritten_graph_is_refused():
    new, _ = mhc_compile.rewrite(symbolic(), n=2, example_inputs=X)
    with pytest.raises(AlreadyTransformedError):
        mhc_compile.rewrite(new, n=2)


def test_unknown_option():
    with pytest.raises(InvalidOptionError, match=r"conection.*connection"):
        mhc_compile.rewrite(symbolic(), n=2, conection="mhc")


def test_nothing_to_rewrite():
    gm = fx.symbolic_trace(nn.Linear(4, 4))
    with pytest.warns(NothingToTransformWarning):
        new, plan = mhc_compile.rewrite(gm, n=2, example_inputs=torch.randn(2, 4))
    assert not plan.sites and "hyper_connections" not in dict(new.named_children())
