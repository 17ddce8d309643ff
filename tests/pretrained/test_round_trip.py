"""What was saved comes back transformed, the same in every tensor, and can go on."""

from __future__ import annotations

import copy
import inspect
import json
import shutil

import pytest
import torch
from safetensors.torch import load_file
from transformers import (
    LlamaForCausalLM,
    LlamaForSequenceClassification,
)

import mhc_compile
from mhc_compile.files.loading import find_record
from mhc_compile.files.record import RECORD
from mhc_compile.passes.plan.from_json import plan_from_dict
from tests.pretrained.folders import BATCH, FAMILIES, IDS, moved, same, small_llama
from tests.tables import also


def test_a_folder_comes_back_transformed_without_a_trace(llama, saved):
    again = mhc_compile.from_pretrained(saved)
    assert not again._mhc.programs and again.mhc_plan == llama.mhc_plan and again._mhc.config == llama._mhc.config
    assert torch.equal(again(**BATCH).logits, llama(**BATCH).logits)
    assert set(again.state_dict()) == set(llama.state_dict())
    assert type(again).__name__ == "LlamaForCausalLM" and not again.training


# A Qwen3 is saved as a Llama is, and T5 ties weights as BERT does.
@pytest.mark.parametrize("family", ["t5", *also("bert", "qwen3")])
def test_other_models_come_back_the_same_and_their_tied_weights_tied(family, tmp_path):
    make, batch = FAMILIES[family]
    hyper = moved(make(), example_kwargs=batch, reduce="learned" if family == "t5" else "mean")
    hyper.save_pretrained(tmp_path)
    again = mhc_compile.from_pretrained(tmp_path)
    assert torch.equal(again(**batch).logits, hyper(**batch).logits)
    tied = again.get_output_embeddings().weight is again.get_input_embeddings().weight
    assert tied == (family in ("bert", "t5"))
    names = set(load_file(tmp_path / "model.safetensors"))
    assert names >= {name for name, _ in hyper.named_parameters() if name.startswith("hyper_connections.")}


def test_shards_in_half_precision_come_back_with_connections_in_fp32(llama, tmp_path):
    hyper = copy.deepcopy(llama)
    hyper.model.bfloat16(), hyper.lm_head.bfloat16()
    hyper.save_pretrained(tmp_path, max_shard_size="8KB")
    assert len(list(tmp_path.glob("*.safetensors"))) > 2
    again = mhc_compile.from_pretrained(tmp_path)
    assert again.lm_head.weight.dtype == torch.bfloat16
    for name, parameter in hyper.named_parameters():
        assert torch.equal(again.get_parameter(name), parameter) and again.get_parameter(name).dtype == parameter.dtype
    assert same(again, hyper)
    wide = mhc_compile.from_pretrained(tmp_path, dtype=torch.float32)
    assert {parameter.dtype for parameter in wide.parameters()} == {torch.float32}


def test_what_was_loaded_can_be_saved_again_and_its_configuration_is_free(llama, saved, tmp_path):
    mhc_compile.from_pretrained(saved).save_pretrained(tmp_path)
    assert same(mhc_compile.from_pretrained(tmp_path), llama)
    assert getattr(llama.config, "transformers_weights", None) is None


def test_a_head_of_another_task_comes_on_the_same_connections(llama, saved):
    kept = mhc_compile.from_pretrained(saved, LlamaForSequenceClassification, num_labels=3)
    assert kept.score.weight.shape == (3, 32)
    for name, parameter in llama.hyper_connections.named_parameters():
        assert torch.equal(kept.hyper_connections.get_parameter(name), parameter)


def test_training_goes_on_after_loading(saved):
    again = mhc_compile.from_pretrained(saved).train()
    with torch.enable_grad():
        again(**BATCH, labels=IDS).loss.backward()
    assert all(parameter.grad is not None for parameter in again.parameters())


def test_a_repository_in_the_cache_of_the_hub(llama, saved, tmp_path):
    snapshot = tmp_path / "models--someone--llama" / "snapshots" / ("0" * 40)
    shutil.copytree(saved, snapshot)
    refs = tmp_path / "models--someone--llama" / "refs"
    refs.mkdir()
    (refs / "main").write_text("0" * 40)
    where = {"cache_dir": tmp_path, "local_files_only": True}
    assert same(mhc_compile.from_pretrained("someone/llama", **where), llama)
    assert find_record("someone/other", where) is None


def test_what_goes_to_the_hub_is_locked_as_well(llama, tmp_path, monkeypatch):
    pushed = []
    monkeypatch.setattr(
        type(llama), "push_to_hub", lambda self, name, **more: pushed.append((name, more)), raising=False
    )
    llama.save_pretrained(tmp_path / "mine", push_to_hub=True, commit_message="new", token="t")
    assert pushed == [("mine", {"commit_message": "new", "token": "t"})]
    assert "transformers_weights" in (tmp_path / "mine" / "config.json").read_text()


def test_weights_are_written_under_their_own_names(llama, tmp_path, monkeypatch):
    """Patterns for files of earlier versions of a model would take names of hyper-connections for those of modules."""
    signature, given = inspect.signature(LlamaForCausalLM.save_pretrained), []
    monkeypatch.setattr(
        LlamaForCausalLM, "save_pretrained", lambda *args, **more: given.append(signature.bind(*args, **more).arguments)
    )
    llama.save_pretrained(tmp_path, is_main_process=False)
    assert given[0]["save_original_format"] is False


def test_other_processes_write_no_record(llama, tmp_path):
    llama.save_pretrained(tmp_path, is_main_process=False)
    assert not (tmp_path / RECORD).exists()


def test_plans_come_back_from_their_json(llama):
    plan = mhc_compile.plan(small_llama().train(), n=2, example_kwargs=BATCH, connection="hc", reduce="learned")
    for known in (llama.mhc_plan, plan):
        assert plan_from_dict(json.loads(known.to_json())) == known


def test_a_plan_from_before_a_field_was_there_has_its_default(llama):
    data = json.loads(llama.mhc_plan.to_json())
    for site in data["sites"]:
        del site["before"], site["moves_tokens"]
    assert {(s.before, s.moves_tokens) for s in plan_from_dict(data).sites} == {("", False)}
    del data["sites"][0]["key"]
    with pytest.raises(KeyError):
        plan_from_dict(data)
