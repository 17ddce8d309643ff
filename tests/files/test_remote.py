"""Sharded checkpoints at an address: fsspec's files in memory stand for a bucket."""

from __future__ import annotations

import pickle
import uuid

import fsspec
import pytest
import torch

from mhc_compile import sharded
from mhc_compile.errors import MissingPackageError, UnreadableCheckpointError, UnsafeCheckpointError
from mhc_compile.files.remote import is_remote
from tests.files.test_pickles import Runs


@pytest.fixture
def bucket():
    name = f"memory://bucket-{uuid.uuid4().hex}"
    yield name
    files = fsspec.filesystem("memory")
    if files.exists(name):
        files.rm(name, recursive=True)


def test_what_is_saved_at_an_address_is_loaded_from_it(bucket):
    saved, wanted = {"a": torch.arange(6.0), "step": 3}, {"a": torch.zeros(6), "step": 0}
    sharded.save(saved, f"{bucket}/step-3")
    sharded.load(wanted, f"{bucket}/step-3")
    assert torch.equal(wanted["a"], saved["a"])
    assert wanted["step"] == 3


def test_a_checkpoint_at_an_address_is_not_overwritten(bucket):
    sharded.save({"a": torch.ones(3)}, f"{bucket}/step-3")
    with pytest.raises(FileExistsError, match="already holds a checkpoint"):
        sharded.save({"a": torch.zeros(3)}, f"{bucket}/step-3")


def test_an_empty_address_holds_no_checkpoint(bucket):
    with pytest.raises(UnreadableCheckpointError, match=r"cannot be read \(\w+"):
        sharded.load({"a": torch.zeros(3)}, f"{bucket}/step-3")


def test_code_in_the_metadata_at_an_address_is_not_run(bucket, tmp_path):
    sharded.save({"a": torch.ones(3)}, f"{bucket}/step-3")
    with fsspec.open(f"{bucket}/step-3/.metadata", "wb") as file:
        file.write(pickle.dumps(Runs(tmp_path / "ran")))
    with pytest.raises(UnsafeCheckpointError, match="Nothing in it was run"):
        sharded.load({"a": torch.zeros(3)}, f"{bucket}/step-3")
    assert not (tmp_path / "ran").exists()


def test_an_unknown_kind_of_address_is_an_error():
    with pytest.raises(UnreadableCheckpointError, match="no address of a checkpoint"):
        sharded.load({"a": torch.zeros(3)}, "nowhere://bucket/step-3")


def test_a_kind_of_address_without_its_package_names_it(monkeypatch):
    def without(address):
        raise ImportError("Install s3fs to access S3")

    monkeypatch.setattr("mhc_compile.files.remote.url_to_fs", without)
    with pytest.raises(MissingPackageError, match="Install s3fs"):
        sharded.load({"a": torch.zeros(3)}, "s3://bucket/step-3")


@pytest.mark.parametrize(("folder", "remote"), [("s3://bucket/a", True), ("build/a", False), ("/a", False)])
def test_an_address_is_told_from_a_folder(folder, remote):
    assert is_remote(folder) == remote
