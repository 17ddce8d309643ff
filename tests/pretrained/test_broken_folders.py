"""A folder that is not whole, or whose plan is of something else, is one clear error."""

from __future__ import annotations

import json
import shutil
from pathlib import Path

import pytest
from transformers import (
    LlamaForCausalLM,
)

import mhc_compile
from mhc_compile import pretrained
from mhc_compile.errors import CheckpointMismatchError, NewerCheckpointError, UnreadableCheckpointError
from mhc_compile.files.record import RECORD
from tests.pretrained.folders import FAMILIES, moved, small_llama


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


def test_a_plain_model_that_was_saved_over_a_transformed_one_is_named(folder):
    small_llama().save_pretrained(folder)
    with pytest.raises(UnreadableCheckpointError, match="without hyper-connections was saved over"):
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


@pytest.mark.parametrize("folder", ["./nowhere", "a/b/c", "/no/where", Path("nowhere")])
def test_a_folder_that_does_not_exist_is_not_looked_for_elsewhere(folder, monkeypatch):
    monkeypatch.setattr(pretrained, "find_record", None)  # which would ask the Hub
    with pytest.raises(UnreadableCheckpointError, match="there is no folder"):
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
