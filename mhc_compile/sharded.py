"""Checkpoints of several processes: `torch.distributed.checkpoint`, with this package's checks and no pickled code.

    sharded.save({"model": model.state_dict(), "optimizer": optimizer.state_dict()}, "step-1000")
    state = {"model": model.state_dict(), "optimizer": optimizer.state_dict()}
    sharded.load(state, "step-1000")   # into the tensors of `state`, on any number of processes

Both are called by every process of the group, and work in a single process without one. A folder may be an address that
fsspec knows, such as `s3://bucket/step-1000`.
"""

from __future__ import annotations

import io
import os
import pickle
import warnings
from collections.abc import Iterator, Mapping, MutableMapping
from contextlib import contextmanager
from typing import Any

import torch
from torch import Tensor
from torch.distributed.checkpoint import state_dict_loader, state_dict_saver
from torch.distributed.checkpoint.api import CheckpointException
from torch.distributed.checkpoint.default_planner import DefaultLoadPlanner
from torch.distributed.checkpoint.filesystem import FileSystemReader
from torch.distributed.checkpoint.metadata import Metadata, StorageMeta
from torch.distributed.checkpoint.planner import ReadItem
from torch.distributed.checkpoint.stateful import Stateful

from mhc_compile.errors import MhcError, UnreadableCheckpointError, UnsafeCheckpointError
from mhc_compile.files.pickles import check_entries, describe, unpickle
from mhc_compile.files.remote import RemoteFolder, is_remote
from mhc_compile.twin.header import KEY, Header, is_plain

_METADATA = ".metadata"
_PACKAGE = "torch.distributed.checkpoint."
_ALLOWED = {
    *((f"{_PACKAGE}metadata", name) for name in (
        "BytesStorageMetadata", "ChunkStorageMetadata", "Metadata", "MetadataIndex", "StorageMeta",
        "TensorProperties", "TensorStorageMetadata", "_MEM_FORMAT_ENCODING",
    )),
    (f"{_PACKAGE}filesystem", "_StorageInfo"),
    ("torch.serialization", "_get_layout"),
    ("torch", "Size"),
    ("collections", "OrderedDict"),
    *((module, name) for module in ("pathlib", "pathlib._local") for name in ("PosixPath", "WindowsPath")),
}  # fmt: skip
"""What the `.metadata` of a checkpoint, a pickle, is made of."""


def save(state: dict[str, Any], folder: str | os.PathLike[str]) -> None:
    """Write one checkpoint into a folder of its own.

    The file that makes it a checkpoint is written last, so a process that is killed leaves a folder that `load` refuses
    and every earlier checkpoint as it was.

    Args:
        state: as for `torch.distributed.checkpoint.save`; may be nested.
        folder: must not hold a checkpoint yet.

    Raises:
        FileExistsError: it does.
        MissingPackageError: it is at an address whose package is not installed.
        UnloadableEntryError: something in it is neither tensor nor plain data, so `load` would refuse it.
    """
    if _SafeReader(folder).is_there():
        raise FileExistsError(f"{folder} already holds a checkpoint: write each to a folder of its own, {folder}-2")
    state = {name: part.state_dict() if isinstance(part, Stateful) else part for name, part in state.items()}
    check_entries(state)
    with _single_process_is_fine():
        state_dict_saver.save(state, checkpoint_id=folder)


def load(state: dict[str, Any], folder: str | os.PathLike[str]) -> None:
    """Read a checkpoint into the tensors of `state`, whatever number of processes wrote it.

    One of the original model leaves the hyper-connections in `state` as they are. Then load `state` into the objects it
    came from, as always.

    Args:
        state: names and shapes that are wanted; may be nested. Changed in place.
        folder: what `save` or `torch.distributed.checkpoint.save` wrote.

    Raises:
        CheckpointMismatchError: its hyper-connections are others than those of `state`; nothing was loaded.
        NewerCheckpointError: its format is unknown to this version.
        UnreadableCheckpointError: it is incomplete, truncated, or no checkpoint; a name or shape is missing.
        UnsafeCheckpointError: it asks for code to be run. It was not.
    """
    reader = _SafeReader(folder)
    names = set(reader.read_metadata().state_dict_metadata)
    wanted = dict(state)
    for path, header in list(_headers(state)):
        prefix = path.removesuffix(KEY)
        if is_plain(names, prefix):
            wanted = _without(wanted, f"{prefix}{KEY.partition('.')[0]}.")
        elif path in names:
            found = {path: torch.empty_like(header)}
            _read(found, folder)
            Header.from_tensor(found[path], path).check(Header.from_tensor(header, path))
    _read(wanted, folder)
    _merge(state, wanted)


def _read(state: dict[str, Any], folder: str | os.PathLike[str]) -> None:
    try:
        with _single_process_is_fine():
            state_dict_loader.load(state, storage_reader=_SafeReader(folder), planner=_SafePlanner(folder))
    except CheckpointException as error:
        ours = next((e for e, _ in error.failures.values() if isinstance(e, MhcError)), None)
        if ours is not None:
            raise ours from error
        reasons = "; ".join(f"process {rank}: {describe(e)}" for rank, (e, _) in error.failures.items())
        raise UnreadableCheckpointError(
            f"{folder} cannot be read into this state ({reasons}): load a checkpoint of this model that was written to "
            "its end"
        ) from error


class _SafeReader(FileSystemReader):
    """Reads metadata as data, also at an address. PyTorch's own reader unpickles it without a check."""

    def __init__(self, folder: str | os.PathLike[str]) -> None:
        super().__init__(folder)
        if is_remote(folder):
            self.fs = RemoteFolder(folder)
            self.path = self.fs.init_path(folder)

    def is_there(self) -> bool:
        """Whether there is a checkpoint."""
        return self.fs.exists(self.fs.concat_path(self.path, _METADATA))

    def read_metadata(self, *args: Any, **kwargs: Any) -> Metadata:
        """The metadata, made of known classes only.

        Raises:
            UnreadableCheckpointError: it is missing or damaged.
            UnsafeCheckpointError: it names anything else.
        """
        path = self.fs.concat_path(self.path, _METADATA)
        try:
            with self.fs.create_stream(path, "rb") as stream:
                content = stream.read()
        except OSError as error:
            reason = error.strerror or describe(error)
            raise UnreadableCheckpointError(
                f"{self.path} is no complete checkpoint, its {_METADATA} cannot be read ({reason}): load the "
                "one before, and write checkpoints to folders of their own"
            ) from error
        metadata = _unpickle_metadata(content, path)
        metadata.storage_meta = metadata.storage_meta or StorageMeta()
        metadata.storage_meta.load_id = self.load_id
        return metadata


class _SafePlanner(DefaultLoadPlanner):
    """Reads values that are no tensors with `weights_only=True`. PyTorch's own planner does without."""

    def __init__(self, folder: str | os.PathLike[str]) -> None:
        super().__init__()
        self.folder = folder

    def load_bytes(self, read_item: ReadItem, value: io.BytesIO) -> None:
        """Check a value first; the planner then unpickles what was found harmless."""
        checked = io.BytesIO()
        torch.save(unpickle(value, f"{self.folder}: {read_item.dest_index.fqn}"), checked)
        checked.seek(0)
        super().load_bytes(read_item, checked)


class _MetadataUnpickler(pickle.Unpickler):
    def find_class(self, module: str, name: str) -> Any:
        is_dtype = module == "torch" and isinstance(getattr(torch, name, None), torch.dtype)
        if is_dtype or (module, name) in _ALLOWED:
            return super().find_class(module, name)
        raise UnsafeCheckpointError(f"asks for {module}.{name}")


def _unpickle_metadata(content: bytes, path: str | os.PathLike[str]) -> Metadata:
    try:
        metadata = _MetadataUnpickler(io.BytesIO(content)).load()
    except UnsafeCheckpointError as error:
        raise UnsafeCheckpointError(
            f"{path} {error}, which no checkpoint needs. Nothing in it was run. Open no checkpoint from a source that "
            "you do not trust"
        ) from error
    except Exception as error:  # pickle raises whatever the bytes lead it to
        raise UnreadableCheckpointError(
            f"{path} is truncated or no checkpoint ({describe(error)}): load another one"
        ) from error
    if not isinstance(metadata, Metadata):
        raise UnreadableCheckpointError(f"{path} holds a {type(metadata).__name__}, not the metadata of a checkpoint")
    return metadata


def _headers(state: Mapping[str, Any], prefix: str = "") -> Iterator[tuple[str, Tensor]]:
    """The headers in a nested state dict, by the name that the checkpoint gives them: parts joined by dots."""
    for name, value in state.items():
        if isinstance(value, Mapping):
            yield from _headers(value, f"{prefix}{name}.")
        elif f"{prefix}{name}".endswith(KEY) and isinstance(value, Tensor):
            yield f"{prefix}{name}", value


def _without(state: Mapping[str, Any], start: str, prefix: str = "") -> dict[str, Any]:
    """The same nested state dict but for the entries whose full names begin with `start`."""
    kept = {}
    for name, value in state.items():
        if isinstance(value, Mapping):
            kept[name] = _without(value, start, f"{prefix}{name}.")
        elif not f"{prefix}{name}".startswith(start):
            kept[name] = value
    return kept


def _merge(state: MutableMapping[str, Any], loaded: Mapping[str, Any]) -> None:
    """Put loaded values that are no tensors in place; tensors were filled where they are."""
    for name, value in loaded.items():
        if isinstance(value, Mapping) and isinstance(state.get(name), MutableMapping):
            _merge(state[name], value)
        else:
            state[name] = value


@contextmanager
def _single_process_is_fine() -> Iterator[None]:
    with warnings.catch_warnings():
        warnings.filterwarnings("ignore", message="torch.distributed is disabled")
        yield
