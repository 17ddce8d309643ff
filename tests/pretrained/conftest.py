"""One transformed Llama for all files, and the folder it was saved to."""

from __future__ import annotations

import shutil

import pytest
import torch

from tests.pretrained.folders import moved, small_llama


@pytest.fixture(autouse=True)
def _no_gradients():
    with torch.no_grad():
        yield


@pytest.fixture(scope="session")
def llama():
    return moved(small_llama())


@pytest.fixture(scope="session")
def saved(llama, tmp_path_factory):
    folder = tmp_path_factory.mktemp("llama")
    llama.save_pretrained(folder)
    return folder


@pytest.fixture
def folder(saved, tmp_path):
    """A copy of the folder to break."""
    shutil.copytree(saved, tmp_path, dirs_exist_ok=True)
    return tmp_path
