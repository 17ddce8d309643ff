"""Sharded checkpoints on the disk: damaged files, code in them, a process that died while it wrote."""

from __future__ import annotations

import pickle
import signal
import subprocess
import sys
from pathlib import Path

import pytest
import torch
import torch.distributed.checkpoint as dcp
from torch import nn

from mhc_compile import sharded
from mhc_compile.errors import (
    UnloadableEntryError,
    UnreadableCheckpointError,
    UnsafeCheckpointError,
)
from tests.files.test_pickles import Runs

ROOT = Path(__file__).parents[1]


@pytest.mark.parametrize("damage", ["missing", "cut", "foreign", "other pickle", "data cut"])
def test_damaged_checkpoints_are_unreadable(tmp_path, damage):
    folder = tmp_path / "a"
    sharded.save({"a": torch.ones(300)}, folder)
    metadata, data = folder / ".metadata", next(folder.glob("*.distcp"))
    content = metadata.read_bytes()
    if damage == "missing":
        metadata.unlink()
    elif damage == "data cut":
        data.write_bytes(data.read_bytes()[:500])
    else:
        metadata.write_bytes({"cut": content[:90], "foreign": b"hello", "other pickle": pickle.dumps({})}[damage])
    with pytest.raises(UnreadableCheckpointError, match=r"load|not the metadata"):
        sharded.load({"a": torch.zeros(300)}, folder)


def test_the_reason_of_a_cut_file_is_never_empty(tmp_path):
    sharded.save({"a": torch.ones(300), "step": 3}, tmp_path / "a")
    data = next((tmp_path / "a").glob("*.distcp"))
    content = data.read_bytes()
    for length in (0, 20, len(content) // 2, len(content) - 1):
        data.write_bytes(content[:length])
        with pytest.raises(UnreadableCheckpointError, match=r"process 0: \w+|is truncated or no checkpoint: \w+"):
            sharded.load({"a": torch.zeros(300), "step": 0}, tmp_path / "a")


def test_what_could_not_be_loaded_is_not_saved(tmp_path):
    with pytest.raises(UnloadableEntryError, match=r"state\['note'\] is a builtins.slice"):
        sharded.save({"a": torch.ones(3), "note": slice(1)}, tmp_path / "a")
    assert not (tmp_path / "a").exists()


def test_objects_that_have_a_state_are_saved_with_it(tmp_path):
    model = nn.Linear(2, 2)
    sharded.save({"model": model}, tmp_path / "a")
    state = {"model": nn.Linear(2, 2).state_dict()}
    sharded.load(state, tmp_path / "a")
    assert torch.equal(state["model"]["weight"], model.weight)


def test_code_in_the_metadata_is_not_run(tmp_path):
    folder, target = tmp_path / "a", tmp_path / "ran"
    sharded.save({"a": torch.ones(3)}, folder)
    (folder / ".metadata").write_bytes(pickle.dumps(Runs(target)))
    with pytest.raises(UnsafeCheckpointError, match=r"system, which no checkpoint needs"):
        sharded.load({"a": torch.zeros(3)}, folder)
    assert not target.exists()


def test_code_in_a_value_is_not_run(tmp_path):
    folder, target = tmp_path / "a", tmp_path / "ran"
    dcp.save({"a": torch.ones(3), "note": Runs(target)}, checkpoint_id=folder, no_dist=True)
    with pytest.raises(UnsafeCheckpointError, match=r"a: note asks for more"):
        sharded.load({"a": torch.zeros(3), "note": None}, folder)
    assert not target.exists()


def test_without_its_metadata_a_checkpoint_is_none_and_the_previous_one_is_there(tmp_path, monkeypatch):
    def die(*args, **kwargs):
        raise KeyboardInterrupt

    sharded.save({"a": torch.ones(3)}, tmp_path / "step-1")
    monkeypatch.setattr(dcp.FileSystemWriter, "finish", die)
    with pytest.raises(BaseException, match="KeyboardInterrupt"):
        sharded.save({"a": torch.zeros(3)}, tmp_path / "step-2")
    check_the_previous_one(tmp_path)


DIES_BEFORE_THE_METADATA = """
import os, signal, sys, torch
from torch.distributed.checkpoint import FileSystemWriter
from mhc_compile import sharded
sharded.save({"a": torch.ones(3)}, sys.argv[1] + "/step-1")
FileSystemWriter.finish = lambda *args, **kwargs: os.kill(os.getpid(), signal.SIGKILL)
sharded.save({"a": torch.zeros(3)}, sys.argv[1] + "/step-2")
"""


@pytest.mark.exhaustive  # what it leaves on the disk is what the test before has there
def test_a_killed_process_leaves_the_previous_checkpoint(tmp_path):
    done = subprocess.run([sys.executable, "-c", DIES_BEFORE_THE_METADATA, str(tmp_path)], cwd=ROOT)
    assert done.returncode == -signal.SIGKILL
    check_the_previous_one(tmp_path)


def check_the_previous_one(tmp_path):
    assert list((tmp_path / "step-2").glob("*.distcp")), "it died too early to show anything"
    state = {"a": torch.zeros(3)}
    with pytest.raises(UnreadableCheckpointError, match="no complete checkpoint"):
        sharded.load(state, tmp_path / "step-2")
    sharded.load(state, tmp_path / "step-1")
    assert state["a"].sum() == 3
