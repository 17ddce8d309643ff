"""What a pickle may ask for: code is never run, and what could not be loaded is not saved."""

from __future__ import annotations

import argparse
import os
import pickle
import random
from collections import Counter
from pathlib import Path

import numpy as np
import pytest
import torch

from mhc_compile import checkpoint
from mhc_compile.errors import UnloadableEntryError, UnreadableCheckpointError, UnsafeCheckpointError
from mhc_compile.files.safetensors_file import write_file
from tests.toy_models import Tower

SUFFIXES = ["pt", "safetensors"]


class Runs:
    """A pickle that writes a file when it is loaded."""

    def __init__(self, target):
        self.target = target

    def __reduce__(self):
        return os.system, (f"touch {self.target}",)


def bare_pickle(protocol):
    return lambda value, path: path.write_bytes(pickle.dumps(value, protocol))


def archive_of_protocol_4(value, path):
    torch.save(value, path, pickle_protocol=4)


WRITERS = {"torch.save": torch.save, "archive": archive_of_protocol_4} | {
    f"pickle {p}": bare_pickle(p) for p in range(6)
}


@pytest.mark.filterwarnings("ignore:Detected pickle protocol")
@pytest.mark.parametrize("writer", WRITERS.values(), ids=WRITERS)
def test_code_in_a_pickle_is_not_run(tmp_path, writer):
    path, target = tmp_path / "evil.pt", tmp_path / "ran"
    writer({"weight": Runs(target)}, path)
    with pytest.raises(UnsafeCheckpointError, match=r"evil.pt asks for more.*posix.system.*Nothing in it was run"):
        checkpoint.load(path)
    assert not target.exists()


def test_the_attack_of_these_tests_is_real(tmp_path):
    target = tmp_path / "ran"
    pickle.loads(pickle.dumps(Runs(target)))
    assert target.exists()


@pytest.mark.filterwarnings("ignore:Detected pickle protocol")
@pytest.mark.parametrize("writer", [bare_pickle(4), archive_of_protocol_4])
def test_a_harmless_pickle_of_another_protocol_is_only_unreadable(tmp_path, writer):
    writer({"weight": torch.ones(2), "note": "of os.system"}, tmp_path / "new.pt")
    with pytest.raises(
        UnreadableCheckpointError, match=r"new.pt is no checkpoint: UnpicklingError: Unsupported operand"
    ):
        checkpoint.load(tmp_path / "new.pt")


def test_code_in_a_safetensors_file_of_ours_is_not_run(tmp_path):
    path, target = tmp_path / "evil.safetensors", tmp_path / "ran"
    write_file({"note": Runs(target), "weight": torch.ones(1)}, path)
    with pytest.raises(UnsafeCheckpointError, match=r"evil.safetensors: note"):
        checkpoint.load(path)
    assert not target.exists()


def test_a_whole_model_is_refused(tmp_path):
    torch.save(Tower(), tmp_path / "model.pt")
    with pytest.raises(UnsafeCheckpointError, match=r"Save model.state_dict"):
        checkpoint.load(tmp_path / "model.pt")


REFUSED = {
    "a function": lambda: None,
    "a namespace": argparse.Namespace(lr=1),
    "a path": Path("x"),
    "a slice": slice(1),
    "numpy's random state": np.random.get_state(),
}


@pytest.mark.parametrize("suffix", SUFFIXES)
@pytest.mark.parametrize("value", REFUSED.values(), ids=REFUSED)
def test_what_could_not_be_loaded_is_not_saved(tmp_path, suffix, value):
    path = tmp_path / f"x.{suffix}"
    checkpoint.save({"a": torch.ones(2)}, path)
    with pytest.raises(UnloadableEntryError, match=r"state\['run'\]\['more'\]\[1\].* is a .*nothing was written"):
        checkpoint.save({"a": torch.zeros(2), "run": {"more": [1, value]}}, path)
    assert [p.name for p in tmp_path.iterdir()] == [path.name]
    assert torch.equal(checkpoint.load(path)["a"], torch.ones(2))


@pytest.mark.parametrize("suffix", SUFFIXES)
def test_plain_data_is_saved(tmp_path, suffix):
    state = {
        "rng": random.getstate(),
        "dtype": torch.bfloat16,
        "seen": Counter("ab"),
        "size": torch.Size([2]),
        "no": None,
    }
    checkpoint.save(state, tmp_path / f"x.{suffix}")
    assert checkpoint.load(tmp_path / f"x.{suffix}") == state
