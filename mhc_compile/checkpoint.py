"""Checkpoint files: written so that a crash leaves the previous one, read so that no code in them runs.

    checkpoint.save({"model": model.state_dict(), "optimizer": optimizer.state_dict()}, "last.pt")
    state = checkpoint.load("last.pt")

A name that ends in `.safetensors` chooses that format. For checkpoints of many processes see `sharded`.
"""

from __future__ import annotations

import os
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import torch

from mhc_compile.errors import UnreadableCheckpointError
from mhc_compile.files.atomic import write_atomically
from mhc_compile.files.pickles import ADVICE, check_entries, unpickle

_SAFETENSORS = ".safetensors"


def save(state: Mapping[str, Any], path: str | os.PathLike[str]) -> None:
    """Write a checkpoint atomically: beside the file, to the disk, then in its place.

    Whenever the process or the machine stops, `path` is the previous checkpoint or the new one, whole.

    Args:
        state: what `state_dict()` returned, or a mapping that holds several such. safetensors keeps tensors of a flat
            mapping as such, and anything else in it as bytes.
        path: the file. Of a symbolic link, the file behind it is written.

    Raises:
        UnloadableEntryError: something in it is neither tensor nor plain data, so `load` would refuse the file.
        MissingPackageError: the name ends in `.safetensors` and safetensors is not installed.
    """
    path = Path(path)
    check_entries(state)
    if path.suffix == _SAFETENSORS:
        from mhc_compile.files.safetensors_file import write_file  # late

        write_atomically(path, lambda beside: write_file(state, beside))
    else:
        write_atomically(path, lambda beside: torch.save(dict(state), beside))


def load(path: str | os.PathLike[str], map_location: Any = "cpu") -> dict[str, Any]:
    """Read a checkpoint: tensors and plain Python data, never code.

    Args:
        path: a file by `save`, `torch.save` or safetensors.
        map_location: where tensors go, as for `torch.load`.

    Returns:
        What was saved; load it with `model.load_state_dict(...)`, which checks what it says of its hyper-connections.

    Raises:
        UnreadableCheckpointError: the file is truncated, or no checkpoint.
        UnsafeCheckpointError: it is a pickle that asks for code to be run. It was not.
        MissingPackageError: see `save`.
        FileNotFoundError: there is no such file.
    """
    path = Path(path)
    if path.suffix == _SAFETENSORS:
        from mhc_compile.files.safetensors_file import read_file  # late

        state = read_file(path, map_location)
    else:
        with path.open("rb") as file:
            state = unpickle(file, path, map_location)
    if not isinstance(state, dict):
        raise UnreadableCheckpointError(f"{path} holds a {type(state).__name__}, not a state dict: {ADVICE}")
    return state
