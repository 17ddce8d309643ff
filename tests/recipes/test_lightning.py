"""Lightning modules with transformed models, as `docs/recipes/lightning.md` has them."""

from __future__ import annotations

import logging

import pytest
import torch
from torch.utils.data import DataLoader, TensorDataset

from tests.moved import Net, X
from tests.recipes.documents import run_recipe
from tests.recipes.small import unmoved, values

SETTINGS = {
    "max_steps": 3,
    "accelerator": "cpu",
    "logger": False,
    "enable_progress_bar": False,
    "enable_checkpointing": False,
    "enable_model_summary": False,
}


@pytest.fixture(scope="module")
def given() -> dict:
    logging.getLogger("lightning.pytorch").setLevel(logging.ERROR)
    data = torch.randn(12, *X.shape[1:], generator=torch.Generator().manual_seed(0))
    return {"settings": SETTINGS, "batches": DataLoader(TensorDataset(data), batch_size=4)}


@pytest.fixture(scope="module")
def trained(given, tmp_path_factory) -> dict:
    path = str(tmp_path_factory.mktemp("lightning") / "last.ckpt")
    return run_recipe("lightning", "A module", Net=Net, x=X, path=path, **given)


def test_a_module_is_trained_and_its_checkpoint_loads(trained):
    module, again = trained["module"].cpu(), trained["again"].cpu()
    assert not unmoved(again, {n: torch.zeros_like(p) for n, p in module.named_parameters()})
    assert torch.equal(again.net(X), module.net(X))
    assert any(p.abs().max() > 0 for n, p in module.named_parameters() if n.endswith("phi")), "nothing was trained"


def test_hyper_connections_are_averaged_with_the_rest(trained, given):
    module = trained["module"].cpu()
    before = values(module)
    names = run_recipe("lightning", "Averaged weights", module=module, **given)
    averaged = names["average"]._average_model
    assert not unmoved(averaged.module, before)
    assert not unmoved(module, before)
