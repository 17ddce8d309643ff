"""Both libraries are imported by their tests: every process that runs tests imports this file."""

from __future__ import annotations

import pytest
import torch
from torch.utils.data import DataLoader, TensorDataset

from mhc_compile.diagnostics.callbacks import huggingface_callback, lightning_callback
from mhc_compile.errors import MissingPackageError
from tests.diagnostics.hand import tower
from tests.toy_models import WIDTH


class Regression(torch.nn.Module):
    """What `Trainer` takes: labels in, a loss out."""

    def __init__(self):
        super().__init__()
        self.tower, _ = tower(2)

    def forward(self, x, labels):
        return {"loss": (self.tower(x) - labels).square().mean()}


def test_trainer_records_every_second_step_of_its_optimizer(tmp_path):
    from transformers import Trainer, TrainingArguments

    data = [{"x": torch.randn(3, WIDTH).double(), "labels": torch.zeros(3, WIDTH).double()} for _ in range(16)]
    records = []
    options = {"max_steps": 4, "per_device_train_batch_size": 2, "gradient_accumulation_steps": 2, "report_to": [],
               "use_cpu": True, "save_strategy": "no", "disable_tqdm": True, "logging_strategy": "no"}  # fmt: skip
    callback = huggingface_callback(every=2, to=records.append)
    Trainer(Regression(), TrainingArguments(str(tmp_path), **options), train_dataset=data, callbacks=[callback]).train()
    assert [r.step for r in records] == [0, 2]
    assert [s.key for s in records[0].diagnosis.sites] == ["blocks.0", "blocks.1"]


def test_lightning_records_the_model_inside_its_module():
    import lightning

    from examples.lightning_gpt import Language, trainer

    records = []
    ids = torch.arange(17).repeat(8, 1)
    fit = trainer(3)
    fit.callbacks.append(lightning_callback(every=2, to=records.append))
    fit.fit(Language(), DataLoader(TensorDataset(ids), batch_size=2))
    assert [r.step for r in records] == [0, 2] and len(records[0].diagnosis.sites) == 4
    assert isinstance(fit.callbacks[-1], lightning.pytorch.Callback)


@pytest.mark.parametrize(
    ("make", "package"), [(huggingface_callback, "transformers"), (lightning_callback, "lightning")]
)
def test_without_the_library_it_is_said_what_to_install(make, package, monkeypatch):
    import importlib

    def without(name, *args):
        raise ImportError(f"No module named {name!r}")

    monkeypatch.setattr(importlib, "import_module", without)
    with pytest.raises(MissingPackageError, match=rf"{package} needs that library.*frameworks"):
        make()
