"""Checkpoint files on the disk: foreign and missing ones, links, a save that fails, a process that is killed."""

from __future__ import annotations

import os
import random
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest
import torch

from mhc_compile import checkpoint
from mhc_compile.errors import (
    UnreadableCheckpointError,
)
from tests.tables import also

ROOT = Path(__file__).parents[1]


SUFFIXES = ["pt", "safetensors"]


FOREIGN = [b"\x89PNG\r\n\x1a\n" + bytes(64), b"hello, world\n" * 9, bytes(200), b"PK\x03\x04" * 50]


@pytest.mark.skipif(os.name != "posix", reason="permissions are those of POSIX")
def test_files_may_be_read_by_whom_the_user_lets(tmp_path):
    (tmp_path / "other").touch()
    for suffix in SUFFIXES:
        checkpoint.save({"a": torch.ones(1)}, tmp_path / f"x.{suffix}")
        assert (tmp_path / f"x.{suffix}").stat().st_mode == (tmp_path / "other").stat().st_mode


@pytest.mark.parametrize("suffix", SUFFIXES)
@pytest.mark.parametrize("content", FOREIGN)
def test_foreign_files_are_unreadable(tmp_path, suffix, content):
    path = tmp_path / f"foreign.{suffix}"
    path.write_bytes(content)
    with pytest.raises(UnreadableCheckpointError, match="foreign"):
        checkpoint.load(path)


def test_something_else_than_a_state_dict_is_unreadable(tmp_path):
    torch.save([torch.ones(2)], tmp_path / "list.pt")
    with pytest.raises(UnreadableCheckpointError, match="holds a list, not a state dict"):
        checkpoint.load(tmp_path / "list.pt")


def test_a_missing_file_is_a_missing_file(tmp_path):
    for suffix in SUFFIXES:
        with pytest.raises(FileNotFoundError):
            checkpoint.load(tmp_path / f"none.{suffix}")


def test_a_save_that_fails_leaves_the_previous_file_and_nothing_else(tmp_path, monkeypatch):
    path = tmp_path / "x.pt"
    checkpoint.save({"a": torch.ones(2)}, path)

    def full(handle):
        raise OSError("no space left on device")

    monkeypatch.setattr(os, "fsync", full)
    with pytest.raises(OSError, match="no space"):
        checkpoint.save({"a": torch.zeros(2)}, path)
    assert [p.name for p in tmp_path.iterdir()] == ["x.pt"]
    assert torch.equal(checkpoint.load(path)["a"], torch.ones(2))


def test_the_file_behind_a_link_is_written(tmp_path):
    (tmp_path / "runs").mkdir()
    link = tmp_path / "last.pt"
    link.symlink_to(Path("runs", "real.pt"))
    for value in (1, 2):
        checkpoint.save({"step": value}, link)
        assert link.is_symlink() and checkpoint.load(tmp_path / "runs" / "real.pt") == {"step": value}
    assert sorted(p.name for p in tmp_path.rglob("*")) == ["last.pt", "real.pt", "runs"]


SAVES_FOREVER = """
import sys, torch
from mhc_compile import checkpoint
for step in range(100_000):
    checkpoint.save({"step": torch.tensor(step), "weights": torch.full((2_000_000,), float(step))}, sys.argv[1])
    print(step, flush=True)
"""


@pytest.mark.slow
@pytest.mark.parametrize("suffix", ["safetensors", *also("pt")])  # one function puts both in place
def test_a_killed_process_leaves_a_checkpoint_that_loads(tmp_path, suffix):
    path = tmp_path / f"last.{suffix}"
    process = subprocess.Popen([sys.executable, "-c", SAVES_FOREVER, str(path)], cwd=ROOT, stdout=subprocess.PIPE)
    process.stdout.readline()
    for pause in random.Random(1).sample(range(30), 5):
        time.sleep(pause / 100)
        process.send_signal(signal.SIGSTOP)  # what is on the disk now is what a kill at this moment would leave
        _check_whole(path)
        process.send_signal(signal.SIGCONT)
    while not list(tmp_path.glob(".last.*.tmp")):
        time.sleep(0.001)
    process.kill()
    process.wait()
    _check_whole(path)
    checkpoint.save({"step": torch.tensor(-1), "weights": torch.tensor([-1.0])}, path)
    _check_whole(path)


def _check_whole(path):
    state = checkpoint.load(path)
    assert (state["weights"] == state["step"]).all()
