"""The library's own classes refuse the folder until `enable_from_pretrained`, and then load both kinds."""

from __future__ import annotations

import subprocess
import sys

import pytest
import torch
from transformers import (
    AutoModelForCausalLM,
    LlamaForCausalLM,
    LlamaForSequenceClassification,
    PreTrainedModel,
)

import mhc_compile
from tests.pretrained.folders import BATCH, same, small_llama


@pytest.fixture
def enabled():
    before = PreTrainedModel.__dict__["from_pretrained"]
    mhc_compile.enable_from_pretrained()
    yield
    PreTrainedModel.from_pretrained = before


@pytest.mark.parametrize("kind", [LlamaForCausalLM, AutoModelForCausalLM, LlamaForSequenceClassification])
def test_a_plain_class_refuses_the_folder_and_says_what_to_write(kind, saved):
    with pytest.raises(ValueError, match=r"hyper-connections.*mhc_compile.from_pretrained\(folder\)"):
        kind.from_pretrained(saved)


@pytest.mark.exhaustive  # the line of Transformers that refuses it is the one of the test before, in 5 s of imports
def test_a_process_without_this_package_refuses_it_too(saved):
    code = f"import transformers; transformers.LlamaForCausalLM.from_pretrained({str(saved)!r})"
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True)
    assert done.returncode and "hyper-connections" in done.stderr.splitlines()[-1]


@pytest.mark.usefixtures("enabled")
def test_enabled_once_the_library_itself_loads_it_as_trainers_do_for_a_reference(llama, saved, tmp_path):
    policy = mhc_compile.from_pretrained(saved)
    kind = getattr(sys.modules["transformers"], policy.config.architectures[0])
    for reference in (
        kind.from_pretrained(policy.config._name_or_path),  # as TRL's DPOTrainer
        AutoModelForCausalLM.from_pretrained(saved, dtype="float32"),
        kind.from_pretrained(saved, config=policy.config.from_pretrained(saved)),
    ):
        assert same(reference, llama)
    small_llama().save_pretrained(tmp_path)
    assert type(AutoModelForCausalLM.from_pretrained(tmp_path)) is LlamaForCausalLM
    mhc_compile.enable_from_pretrained()  # once more does nothing
    assert hasattr(PreTrainedModel.from_pretrained.__func__.__mhc_before__, "__wrapped__") is False


def test_the_class_of_a_transformed_model_loads_both_kinds(llama, saved, tmp_path):
    assert same(type(llama).from_pretrained(saved), llama)
    small_llama().save_pretrained(tmp_path)
    assert type(type(llama).from_pretrained(tmp_path)) is LlamaForCausalLM


@pytest.mark.usefixtures("enabled")
def test_a_plain_model_saved_over_it_is_plain_again(llama, folder):
    with pytest.warns(mhc_compile.errors.NotPreservingWarning):
        plain = mhc_compile.revert(llama)
    plain.save_pretrained(folder)
    again = LlamaForCausalLM.from_pretrained(folder)
    assert type(again) is LlamaForCausalLM and "transformers_weights" not in (folder / "config.json").read_text()
    assert torch.equal(again(**BATCH).logits, plain(**BATCH).logits)  # without a trace
