"""What the model computes without gradients, and what follows it: gates lie where their branch is computed."""

from __future__ import annotations

import pytest
import torch

from mhc_compile import transform
from mhc_compile.passes.steps import Unfused
from tests.passes.layers import Net, mlps, tokens
from tests.tables import also

X = tokens()


def _frozen_start(m, x):
    with torch.no_grad():
        x = x + m.f0(x)
    return (u := x + m.f1(x)) + m.f2(u)


def _frozen_stem(m, x):
    """The stream starts at a value computed without gradients."""
    with torch.no_grad():
        x = torch.tanh(m.f3(x))
    return (u := x + m.f1(x)) + m.f2(u)


def _frozen_in_between(m, x):
    x = x + m.f1(x)
    with torch.no_grad():
        y = m.f0(x)
    x = x + y * 2.0
    return x + m.f2(x)


def _frozen_chain(m, x):
    with torch.no_grad():
        for f in (m.f0, m.f3):
            x = x + f(x)
        x = torch.relu(x)
    return (u := x + m.f1(x)) + m.f2(u)


READ_OUT = [*((body, "mean") for body in (_frozen_start, _frozen_stem, _frozen_in_between, _frozen_chain)),
            (_frozen_chain, "learned"),
            *also(*((body, "learned") for body in (_frozen_start, _frozen_stem, _frozen_in_between)))]  # fmt: skip


@pytest.mark.parametrize(("body", "reduce"), READ_OUT)
def test_sites_behind_a_region_without_gradients_learn(body, reduce):
    torch.manual_seed(0)
    model = Net(body, **mlps(4)).double()
    new = transform(model, n=4, example_inputs=(X,), reduce=reduce, modes=("train",))
    y = new(X)
    assert torch.allclose(y, model(X), rtol=1e-9, atol=1e-9)
    y.square().sum().backward()
    lost = {name.partition(".")[0] for name, p in new.hyper_connections.named_parameters() if p.grad is None}
    assert not any(name.startswith(("f1", "f2")) for name in lost)
    for key in {name.partition("_")[0] for name in lost}:
        assert any(key in note for note in new.mhc_plan.notes)


def test_no_kernel_lies_across_the_border():
    new = transform(Net(_frozen_start, **mlps(4)).double(), n=4, example_inputs=(X,), modes=("train",))
    assert [step.reason for step in new.mhc_plan.steps if step.gates == "f1"] == [Unfused.GRADIENTS]


@pytest.mark.parametrize(("cut", "deaf"), [(lambda x: x.detach(), True), (lambda x: x.clone(), False)])
def test_a_detached_stream_is_noted(cut, deaf):
    body = lambda m, x: (u := cut(x + m.f0(x))) + m.f1(u)
    new = transform(Net(body, **mlps(2)).double(), n=4, example_inputs=(X,), modes=("train",))
    noted = [note for note in new.mhc_plan.notes if "no gradient reaches the hyper-connections of f0" in note]
    assert bool(noted) is deaf
