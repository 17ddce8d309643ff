"""PEFT's adapters and transformed models, as `docs/recipes/peft.md` has them."""

from __future__ import annotations

import pytest
import torch
from torch import Tensor, nn
from torch.testing import assert_close

import mhc_compile
from tests.moved import Net, X
from tests.recipes.documents import run_recipe
from tests.tables import also
from tests.toy_models import WIDTH

CALL = {"x": X}
SITES = 2


class Block(nn.Module):
    """With the names of layers that adapters are put on."""

    def __init__(self) -> None:
        super().__init__()
        self.norm, self.q_proj, self.v_proj = nn.LayerNorm(WIDTH), nn.Linear(WIDTH, 16), nn.Linear(16, WIDTH)

    def forward(self, x: Tensor) -> Tensor:
        return x + self.v_proj(torch.relu(self.q_proj(self.norm(x))))


class Attending(Net):
    """A small model of such blocks."""

    block = Block


@pytest.fixture(autouse=True)
def _one_trace(monkeypatch):
    """Transformed in training mode alone, for the calls that are made here."""
    original = mhc_compile.transform

    def transform(model, **options):
        return original(model, **{"example_kwargs": CALL, "modes": ("train",), **options})

    monkeypatch.setattr(mhc_compile, "transform", transform)


def plain() -> nn.Module:
    torch.manual_seed(0)
    return Attending()


def train(model: nn.Module) -> None:
    """Two steps; every parameter that is to be trained has a gradient."""
    chosen = {name: p for name, p in model.named_parameters() if p.requires_grad}
    optimizer = torch.optim.SGD(chosen.values(), 0.1)
    for _ in range(2):
        optimizer.zero_grad()
        model(**CALL).square().mean().backward()
        assert not [name for name, p in chosen.items() if p.grad is None]
        optimizer.step()


@pytest.mark.parametrize("dora", [False, *also(True)])
def test_an_adapter_holds_what_was_trained_and_is_merged(dora, tmp_path):
    given = {"plain": plain(), "same_plain": plain(), "train": train, "dora": dora, "folder": str(tmp_path)}
    names = run_recipe("peft", "An adapter on a transformed model", **given)
    after = names["model"](**CALL)
    assert (after - plain()(**CALL)).abs().max() > 1e-3
    assert_close(names["merged"](**CALL), after, atol=1e-5, rtol=1e-5)
    trained = dict(names["model"].get_base_model().hyper_connections.itself.named_parameters())
    assert any(value.abs().max() > 0 for name, value in trained.items() if name.endswith("phi"))
    for name, value in names["merged"].hyper_connections.named_parameters():
        assert torch.equal(value, trained[name])


def test_a_model_that_has_an_adapter_trains_both():
    names = run_recipe("peft", "A model that has an adapter already", plain=plain(), batch=CALL, train=train)
    trained = {name for name, p in names["model"].named_parameters() if p.requires_grad}
    assert sum("lora_" in name for name in trained) == 4 * SITES
    assert sum("hyper_connections" in name for name in trained) == 3 * SITES == 3 * len(names["model"].mhc_plan.sites)


def test_only_hyper_connections():
    names = run_recipe("peft", "Only the hyper-connections", plain=plain(), train=train)
    own = dict(plain().named_parameters())
    assert all(torch.equal(p, own[name]) for name, p in names["model"].named_parameters() if name in own)
    assert all(p.abs().max() > 0 for name, p in names["model"].hyper_connections.named_parameters() if "phi" in name)
