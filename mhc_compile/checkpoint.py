"""Checkpoint files: written so that a crash leaves the previous one, read so that no code in them runs.

    checkpoint.save({"model": model.state_dict(), "optimizer": optimizer.state_dict()}, "last.pt")
    state = checkpoint.load("last.pt")

A name that ends in `.safetensors` chooses that format. For checkpoints of many processes see `sharded`.
"""

from __future__ import annotations

import os
import pickle
import re
import uuid
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import IO, Any

import torch

from mhc_compile.errors import UnreadableCheckpointError, UnsafeCheckpointError

_SAFETENSORS = ".safetensors"
_ADVICE = "load a file that mhc_compile.checkpoint.save or torch.save(model.state_dict(), path) wrote to its end"
_REFUSED = "Weights only load failed"  # how torch.load begins when it meets a global it does not know


def save(state: Mapping[str, Any], path: str | os.PathLike[str]) -> None:
    """Write a checkpoint atomically: beside the file, to the disk, then in its place.

    Whenever the process or the machine stops, `path` is the previous checkpoint or the new one, whole.

    Args:
        state: what `state_dict()` returned, or a mapping that holds several such. safetensors keeps tensors of a flat
            mapping as such, and anything else in it as bytes.
        path: the file.

    Raises:
        MissingPackageError: the name ends in `.safetensors` and safetensors is not installed.
    """
    path = Path(path)
    if path.suffix == _SAFETENSORS:
        from mhc_compile.safetensors_file import write_file

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
        from mhc_compile.safetensors_file import read_file

        state = read_file(path, map_location)
    else:
        with path.open("rb") as file:
            state = unpickle(file, path, map_location)
    if not isinstance(state, dict):
        raise UnreadableCheckpointError(f"{path} holds a {type(state).__name__}, not a state dict: {_ADVICE}")
    return state


def unpickle(file: IO[bytes], source: str | os.PathLike[str], map_location: Any = "cpu") -> Any:
    """`torch.load(weights_only=True)` of a file from `source`, with this package's errors."""
    try:
        return torch.load(file, map_location=map_location, weights_only=True)
    except pickle.UnpicklingError as error:
        if re.search("unsupported (global|class)", str(error), re.IGNORECASE):
            raise UnsafeCheckpointError(
                f"{source} asks for more than tensors and plain data: {_reason(error)}. Nothing in it was run. "
                "Save model.state_dict(), not the model; and open no file from a source that you do not trust"
            ) from error
        raise UnreadableCheckpointError(f"{source} is no checkpoint: {_reason(error)}. {_ADVICE}") from error
    except Exception as error:  # torch, zipfile and pickle raise whatever the bytes lead them to
        raise UnreadableCheckpointError(
            f"{source} is truncated or no checkpoint: {type(error).__name__}: {_reason(error)}. {_ADVICE}"
        ) from error


def write_atomically(path: Path, write: Callable[[Path], Any]) -> None:
    """Write a file beside `path`, wait until the disk has it, and rename it; on an error nothing is left behind."""
    beside = path.with_name(f".{path.name}.{uuid.uuid4().hex}.tmp")
    try:
        write(beside)
        with beside.open("rb+") as file:
            os.fsync(file.fileno())
        beside.replace(path)
    except BaseException:
        beside.unlink(missing_ok=True)
        raise
    _sync_folder(path.parent)


def _sync_folder(folder: Path) -> None:
    """The rename itself must reach the disk, too; Windows has no handles of folders and needs none."""
    if os.name == "posix":
        handle = os.open(folder, os.O_RDONLY)
        try:
            os.fsync(handle)
        finally:
            os.close(handle)


def _reason(error: Exception) -> str:
    """The first line of an error of PyTorch's that says something."""
    lines = [line.strip() for line in str(error).splitlines() if line.strip()]
    telling = [line for line in lines if not line.startswith((_REFUSED, "(1)", "(2)"))]
    return (telling or lines or [type(error).__name__])[0].rstrip(".")
