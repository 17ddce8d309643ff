"""Folders of `save_pretrained`: they come back transformed, and the plain class refuses them."""

from __future__ import annotations

import copy
import inspect
import json
import shutil
import subprocess
import sys

import pytest
import torch
from safetensors.torch import load_file
from transformers import (
    AutoModelForCausalLM,
    BertConfig,
    BertForMaskedLM,
    LlamaConfig,
    LlamaForCausalLM,
    LlamaForSequenceClassification,
    MixtralConfig,
    MixtralForCausalLM,
    PreTrainedModel,
    Qwen3Config,
    Qwen3ForCausalLM,
    T5Config,
    T5ForConditionalGeneration,
)

import mhc_compile
from mhc_compile.errors import CheckpointMismatchError, NewerCheckpointError, UnreadableCheckpointError
from mhc_compile.files.loading import find_record
from mhc_compile.files.record import RECORD
from mhc_compile.passes.plan.from_json import plan_from_dict
from tests.tables import also

IDS = torch.arange(18).reshape(2, 9)
BATCH = {"input_ids": IDS}
SIZES = {"vocab_size": 64, "hidden_size": 32, "intermediate_size": 32, "num_hidden_layers": 1, "num_attention_heads": 4}


def small_llama(**sizes):
    """A Llama of one layer: what is saved and loaded does not ask how many there are, and each is traced in seconds."""
    torch.manual_seed(0)
    return LlamaForCausalLM(LlamaConfig(**{**SIZES, **sizes}, num_key_value_heads=2, use_cache=False))


@torch.no_grad()  # with gradients, a model that asks for the mode is traced for both
def moved(model, **options):
    """Transformed, with hyper-connections that matter."""
    kwargs = {"n": 2, "modes": ("eval",), "example_kwargs": BATCH, **options}
    hyper = mhc_compile.transform(model.eval(), **kwargs)
    torch.manual_seed(0)
    for parameter in hyper.hyper_connections.parameters():
        parameter += 0.3 * torch.randn_like(parameter)
    return hyper


def same(one, other):
    """Plans, options and every tensor of the state are equal: then all calls are, and none has to be traced."""
    state, known = one.state_dict(), other.state_dict()
    return (
        (one._mhc.plans, one._mhc.config) == (other._mhc.plans, other._mhc.config)
        and state.keys() == known.keys()
        and all(torch.equal(state[name], known[name]) and state[name].dtype == known[name].dtype for name in known)
    )


@pytest.fixture(autouse=True)
def _no_gradients():
    with torch.no_grad():
        yield


@pytest.fixture(scope="module")
def llama():
    return moved(small_llama())


@pytest.fixture(scope="module")
def saved(llama, tmp_path_factory):
    folder = tmp_path_factory.mktemp("llama")
    llama.save_pretrained(folder)
    return folder


@pytest.fixture
def folder(saved, tmp_path):
    """A copy of the folder to break."""
    shutil.copytree(saved, tmp_path, dirs_exist_ok=True)
    return tmp_path


@pytest.fixture
def enabled():
    before = PreTrainedModel.__dict__["from_pretrained"]
    mhc_compile.enable_from_pretrained()
    yield
    PreTrainedModel.from_pretrained = before


def t5():
    return T5ForConditionalGeneration(T5Config(vocab_size=64, d_model=16, d_kv=4, d_ff=32, num_layers=1, num_heads=2))


FAMILIES = {
    "bert": (lambda: BertForMaskedLM(BertConfig(**SIZES)), BATCH),
    "qwen3": (
        lambda: Qwen3ForCausalLM(Qwen3Config(**SIZES, num_key_value_heads=2, head_dim=8, use_cache=False)),
        BATCH,
    ),
    "mixtral": (  # the library has other names for its weights in files
        lambda: MixtralForCausalLM(
            MixtralConfig(**{**SIZES, "num_hidden_layers": 1}, num_key_value_heads=2, num_local_experts=2)
        ),
        {**BATCH, "use_cache": False},
    ),
    "t5": (t5, {**BATCH, "decoder_input_ids": IDS[:, :3], "use_cache": False}),
}


def test_a_folder_comes_back_transformed_without_a_trace(llama, saved):
    again = mhc_compile.from_pretrained(saved)
    assert not again._mhc.programs and again.mhc_plan == llama.mhc_plan and again._mhc.config == llama._mhc.config
    assert torch.equal(again(**BATCH).logits, llama(**BATCH).logits)
    assert set(again.state_dict()) == set(llama.state_dict())
    assert type(again).__name__ == "LlamaForCausalLM" and not again.training


# A Qwen3 is saved as a Llama is.
@pytest.mark.parametrize("family", ["bert", "t5", *also("qwen3")])
def test_other_models_come_back_the_same_and_their_tied_weights_tied(family, tmp_path):
    make, batch = FAMILIES[family]
    hyper = moved(make(), example_kwargs=batch, reduce="learned" if family == "bert" else "mean")
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


def edited(folder, name, change):
    data = json.loads((folder / name).read_text())
    change(data)
    (folder / name).write_text(json.dumps(data))


def truncate(file):
    file.write_bytes(file.read_bytes()[: file.stat().st_size // 2])


@pytest.mark.parametrize(
    "break_it",
    [
        lambda folder: (folder / RECORD).unlink(),
        lambda folder: truncate(folder / RECORD),
        lambda folder: edited(folder, RECORD, lambda data: data.pop("plans")),
        lambda folder: edited(folder, RECORD, lambda data: data["plans"][0]["sites"][0].update(kind=3)),
        lambda folder: edited(folder, RECORD, lambda data: data["plans"][0]["sites"].pop(0)),
        lambda folder: truncate(folder / "config.json"),
        lambda folder: truncate(folder / "model.safetensors"),
        lambda folder: (folder / "model.safetensors").unlink(),
    ],
    ids=[
        *("no plan", "half a plan", "no plans in it", "an odd plan", "a site is missing"),
        *("half a configuration", "half the weights", "none"),
    ],
)
def test_a_folder_that_is_not_whole_is_one_clear_error(folder, break_it):
    break_it(folder)
    with pytest.raises(UnreadableCheckpointError, match=str(folder)):
        mhc_compile.from_pretrained(folder)


def test_a_missing_shard_is_the_same(llama, tmp_path):
    llama.save_pretrained(tmp_path, max_shard_size="8KB")
    next(iter(sorted(tmp_path.glob("model-*.safetensors")))).unlink()
    with pytest.raises(UnreadableCheckpointError):
        mhc_compile.from_pretrained(tmp_path)


def test_weights_without_connections_are_incomplete(llama, folder):
    small_llama().save_pretrained(folder)
    with pytest.raises(UnreadableCheckpointError, match=r"has no hyper_connections\."):
        mhc_compile.from_pretrained(folder)


def all_sites(data):
    return [site for plan in data["plans"] for site in plan["sites"]]


OTHERS = {
    "another n": lambda data: data["options"].update(n=4),
    "another connection": lambda data: data["options"].update(connection="hc"),
    "more layers": lambda data: all_sites(data)[0].update(module="model.layers.1"),
    "another width": lambda data: [site.update(channels=16) for site in all_sites(data)],
}


@pytest.mark.parametrize("other", OTHERS)
def test_a_plan_of_something_else_is_refused(other, folder):
    edited(folder, RECORD, OTHERS[other])
    with pytest.raises(CheckpointMismatchError):
        mhc_compile.from_pretrained(folder)


# As other models really write it: refused in the lines of "more layers" and of "another connection".
@pytest.mark.exhaustive
@pytest.mark.parametrize("make", [FAMILIES["bert"][0], small_llama], ids=["another model", "fewer sites"])
def test_the_plan_of_another_model_is_refused(make, folder, tmp_path_factory):
    elsewhere = tmp_path_factory.mktemp("other")
    moved(make(), exclude="*.mlp" if make is small_llama else ()).save_pretrained(elsewhere)
    shutil.copy(elsewhere / RECORD, folder / RECORD)
    with pytest.raises(CheckpointMismatchError):
        mhc_compile.from_pretrained(folder)


def test_a_later_format_is_refused(folder):
    edited(folder, RECORD, lambda data: data.update(format=2))
    with pytest.raises(NewerCheckpointError, match="later version"):
        mhc_compile.from_pretrained(folder)


def test_a_class_of_ones_own_is_named(folder):
    edited(folder, "config.json", lambda data: data.update(architectures=["MyLlama"]))
    with pytest.raises(UnreadableCheckpointError, match=r"from_pretrained\(folder, ModelClass\)"):
        mhc_compile.from_pretrained(folder)
    assert mhc_compile.from_pretrained(folder, LlamaForCausalLM).hyper_connections
