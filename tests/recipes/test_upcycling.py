from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
import torch

from tests.recipes.documents import run_recipe
from tests.toy_models import WIDTH, Tower


def train(found: dict[str, Any], x: torch.Tensor) -> dict[str, torch.Tensor]:
    """Two steps; the values before."""
    before = {name: value.detach().clone() for name, value in found["model"].named_parameters()}
    for _ in range(2):
        found["model"](x).square().mean().backward()
        found["optimizer"].step()
        found["optimizer"].zero_grad()
    return before


@pytest.fixture
def given(tmp_path: Path) -> dict[str, Any]:
    torch.manual_seed(0)
    torch.save(Tower().state_dict(), tmp_path / "plain.pt")
    return {"make_model": Tower, "file": tmp_path / "plain.pt", "x": torch.randn(4, 5, WIDTH)}


def test_a_checkpoint_goes_on_where_it_was(given: dict[str, Any]) -> None:
    found = run_recipe("upcycling", "From a checkpoint", **given)
    before = train(found, given["x"])
    moved = {name for name, value in found["model"].named_parameters() if not torch.equal(value, before[name])}
    assert any(name.startswith("hyper_connections") and name.endswith("phi") for name in moved)
    assert "stem.weight" in moved


def test_only_hyper_connections_move(given: dict[str, Any]) -> None:
    found = run_recipe("upcycling", "Only the hyper-connections", **given)
    before = train(found, given["x"])
    moved = {name for name, value in found["model"].named_parameters() if not torch.equal(value, before[name])}
    assert moved and all(name.startswith("hyper_connections") for name in moved)


def test_the_way_back_is_the_same_function(given: dict[str, Any]) -> None:
    found = run_recipe("upcycling", "And back", **given)
    assert torch.allclose(found["plain"](given["x"]), found["model"](given["x"]), atol=1e-5)
