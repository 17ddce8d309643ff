"""Adapters of PEFT that a model had before `transform`: their checkpoints hold the adapter alone."""

from __future__ import annotations

import warnings

import pytest
import torch
from torch import nn
from torch.testing import assert_close

import mhc_compile
from mhc_compile.errors import CheckpointMismatchError, NotPreservingWarning, SavedApartWarning
from tests.test_adapters import X, moved
from tests.toy_models import Tower

peft = pytest.importorskip("peft")


def test_a_model_that_had_its_adapter_before_saves_the_hyper_connections_beside_it(tmp_path):
    def made() -> nn.Module:
        torch.manual_seed(0)
        model = peft.get_peft_model(Tower(), peft.LoraConfig(target_modules=["up"]))
        return mhc_compile.transform(model, n=2, example_inputs=(X,), modes=("train",)).train()

    first, second = moved(made()), made()
    with pytest.warns(SavedApartWarning, match=r"load_state_dict\(mhc_compile\.checkpoint\.load"):
        first.save_pretrained(tmp_path)
    assert {"adapter_model.safetensors", "hyper_connections.safetensors"} <= {file.name for file in tmp_path.iterdir()}
    assert not torch.allclose(second(X), first(X))
    second.load_state_dict(mhc_compile.checkpoint.load(tmp_path / "hyper_connections.safetensors"), strict=False)
    assert_close(second(X), first(X))

    saved = first(X)
    moved(first)
    with warnings.catch_warnings():
        warnings.simplefilter("error")  # that an adapter alone is no checkpoint of the plain model is no news
        first.load_adapter(tmp_path, "default", is_trainable=True)  # as in a trainer that resumes
    assert_close(first(X), saved)
    moved(first)
    with pytest.warns(SavedApartWarning, match="'other' was trained with"):
        first.load_adapter(tmp_path, "other")
    assert not torch.allclose(first(X), saved)


def adapted_before(name="default", **options):
    config = peft.LoraConfig(target_modules=["unused"])
    model = peft.get_peft_model(Tower(), config, adapter_name=name)
    return moved(mhc_compile.transform(model, n=2, example_inputs=(X,), modes=("train",), **options).train())


@pytest.mark.filterwarnings("ignore::mhc_compile.errors.SavedApartWarning")
def test_an_adapter_of_another_name_lies_in_a_folder_of_its_own(tmp_path):
    model = adapted_before("mine")
    model.save_pretrained(tmp_path)
    saved = model(X)
    moved(model)
    model.load_adapter(tmp_path / "mine", "mine", is_trainable=True)
    assert_close(model(X), saved)


@pytest.mark.filterwarnings("ignore::mhc_compile.errors.SavedApartWarning")
@pytest.mark.parametrize("options", [{"exclude": ("*.blocks.1*",)}, {"connection": "hc"}])
def test_hyper_connections_of_another_model_are_refused_before_anything_is_loaded(options, tmp_path):
    adapted_before(**options).save_pretrained(tmp_path)
    model = adapted_before()
    with torch.no_grad():
        for name, parameter in model.named_parameters():
            if "lora" in name:
                parameter.fill_(7.0)
    before = {name: value.clone() for name, value in model.state_dict().items()}
    with pytest.raises(CheckpointMismatchError):
        model.load_adapter(tmp_path, "default")
    assert all(torch.equal(value, before[name]) for name, value in model.state_dict().items())


def test_a_process_that_is_not_the_main_one_writes_nothing(tmp_path):
    adapted_before().save_pretrained(tmp_path, True, None, "auto", False)
    assert not (tmp_path / "hyper_connections.safetensors").exists()


def test_a_checkpoint_of_the_plain_model_is_told_from_that_of_an_adapter(tmp_path):
    config = peft.LoraConfig(target_modules="all-linear", r=2)
    plain = peft.get_peft_model(Tower(), config)
    model = moved(mhc_compile.transform(plain, n=2, example_inputs=(X,), modes=("train",)))
    with pytest.warns(NotPreservingWarning, match="a checkpoint of the original"):
        model.load_state_dict({name: value for name, value in plain.state_dict().items() if "lora" not in name}, False)
