"""Checkpoints with the keys of before: they load under those of today."""

from __future__ import annotations

import pytest
import torch

from mhc_compile import transform
from mhc_compile.passes.keys import identifier
from tests.copies import copied
from tests.passes.graphs import plan_of
from tests.passes.layers import Net, PreNorm, tokens

X = tokens()


def _lists(m, x):
    for i in range(3):
        x = x + m.get_submodule(f"b{i}")(m.get_submodule(f"a{i}")(x).relu())
    return x


@copied
def make(**options):
    torch.manual_seed(0)
    layers = {f"{name}{i}": torch.nn.Linear(8, 8) for name in "ab" for i in range(3)}
    return transform(Net(_lists, **layers).double(), n=4, example_inputs=(X,), modes=("train",), **options)


def moved(model):
    with torch.no_grad():
        for p in model.hyper_connections.parameters():
            p.add_(torch.randn_like(p))
    return model


def as_before(model):
    """The state dict under the keys that sites and readouts had when keys were positions."""
    state = dict(model.state_dict())
    parts = [*model.mhc_plan.sites, *(r for s in model.mhc_plan.segments for r in s.readouts)]
    for part in (part for part in parts if part.former):
        new, old = (f"hyper_connections.{identifier(key)}." for key in (part.key, part.former))
        state = {name.replace(new, old, 1) if name.startswith(new) else name: v for name, v in state.items()}
    return state


@pytest.mark.parametrize("reduce", ["mean", "learned"])
def test_an_old_checkpoint_loads(reduce):
    trained, fresh = moved(make(reduce=reduce)), make(reduce=reduce)
    old = as_before(trained)
    assert "hyper_connections.site_use2.phi" in old and "hyper_connections.b1.phi" not in old
    fresh.load_state_dict(old)
    assert torch.equal(fresh(X), trained(X))


def test_an_old_checkpoint_loads_inside_another_module():
    trained, fresh = moved(make()), make()
    whole = torch.nn.ModuleDict({"model": fresh})
    whole.load_state_dict({f"model.{name}": value for name, value in as_before(trained).items()})
    assert torch.equal(fresh(X), trained(X))


def test_a_checkpoint_of_today_is_left_alone_and_a_wrong_one_still_refused():
    trained, fresh = moved(make()), make()
    state = trained.state_dict()
    fresh.load_state_dict(state)
    assert torch.equal(fresh(X), trained(X))
    broken = {name.replace("connections.b1", "connections.elsewhere"): value for name, value in state.items()}
    with pytest.raises(RuntimeError, match="elsewhere"):
        make().load_state_dict(broken)


def test_keys_that_stayed_have_no_former_one():
    assert not any(site.former for site in plan_of(torch.nn.Sequential(PreNorm(), PreNorm()).double(), X).sites)


def test_a_layer_that_is_left_out_takes_its_parameters_with_it():
    class Skipping(Net):
        def forward(self, x, skip=()):
            for i in range(3):
                if i not in skip:
                    x = x + self.get_submodule(f"b{i}")(self.get_submodule(f"a{i}")(x).relu())
            return x

    torch.manual_seed(0)
    layers = {f"{name}{i}": torch.nn.Linear(8, 8) for name in "ab" for i in range(3)}
    model = Skipping(None, **layers).double()
    new = transform(model, n=4, example_inputs=(X,), modes=("train",))
    with torch.no_grad():
        new.hyper_connections["b1"].bias.add_(1.0)
    assert torch.allclose(new(X, skip=(1,)), model(X, skip=(1,)))
    assert not torch.allclose(new(X, skip=(0,)), model(X, skip=(0,)))
