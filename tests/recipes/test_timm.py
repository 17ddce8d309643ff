"""timm's way to train, as `docs/recipes/timm.md` has it."""

from __future__ import annotations

import argparse

import pytest
import timm
import torch

import mhc_compile
from tests.recipes.documents import run_recipe

NAME = "vit_tiny_patch16_224"
SIZES = {"img_size": 16, "patch_size": 8, "embed_dim": 16, "depth": 1, "num_heads": 2, "num_classes": 4, "in_chans": 1}
IMAGES = torch.randn(2, 1, 16, 16, generator=torch.Generator().manual_seed(0))


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    return tmp_path_factory.mktemp("timm")


@pytest.fixture(scope="module")
def trained(folder) -> dict:
    """Built with other sizes than the ones timm declares for it, no example inputs."""
    given = {"batches": [(IMAGES, torch.tensor([0, 1]))] * 2, "arguments": argparse.Namespace(model=NAME)}
    return run_recipe("timm", "Training", name=NAME, sizes=SIZES, folder=str(folder), **given)


def test_training_moves_every_parameter_and_its_average_follows(trained):
    model, average = trained["model"], dict(trained["average"].module.named_parameters())
    new = dict(model.hyper_connections.named_parameters())
    assert len(new) == 6 and any(p.abs().max() > 0 for name, p in new.items() if name.endswith("phi"))
    assert all(not torch.equal(p, average[name]) for name, p in model.named_parameters() if p.ndim > 1)


def test_what_its_saver_writes_loads_into_a_transformed_model_only(trained, folder):
    file = str(folder / "checkpoint-1.pth.tar")
    again = run_recipe("timm", "Loading", name=NAME, sizes=SIZES, file=file)["model"]
    assert torch.equal(again.eval()(IMAGES), trained["model"].eval()(IMAGES))
    with pytest.raises(RuntimeError, match="hyper_connections"):
        timm.create_model(NAME, checkpoint_path=file, **SIZES)
    other = mhc_compile.transform(timm.create_model(NAME, **SIZES), n=2, modes=("eval",))
    with pytest.raises(mhc_compile.errors.CheckpointMismatchError):
        timm.models.load_checkpoint(other, file, use_ema=False)
