"""Folders at an address, such as `s3://bucket/step-1000`: read through fsspec, as PyTorch writes them."""

from __future__ import annotations

import os
import posixpath
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

from fsspec.core import url_to_fs
from torch.distributed.checkpoint.filesystem import FileSystem

from mhc_compile.errors import MissingPackageError, UnreadableCheckpointError


def is_remote(folder: str | os.PathLike[str]) -> bool:
    """Whether PyTorch takes this for an address."""
    return "://" in os.fspath(folder)


class RemoteFolder(FileSystem):
    """A folder at an address, for PyTorch's reader of checkpoints.

    Raises:
        MissingPackageError: the package for this kind of address is not installed.
        UnreadableCheckpointError: there is no such kind.
    """

    def __init__(self, address: str | os.PathLike[str]) -> None:
        """Connect to where `address` lies."""
        try:
            self._files, _ = url_to_fs(os.fspath(address))
        except ImportError as error:
            raise MissingPackageError(f"{address}: {error}") from error
        except ValueError as error:
            raise UnreadableCheckpointError(f"{address} is no address of a checkpoint: {error}") from error

    def init_path(self, path: str | os.PathLike[str]) -> str:
        """The address as it is."""
        return os.fspath(path)

    def concat_path(self, path: str | os.PathLike[str], suffix: str) -> str:
        """The address of a file in a folder."""
        return posixpath.join(os.fspath(path), suffix)

    @contextmanager
    def create_stream(self, path: str | os.PathLike[str], mode: str) -> Iterator[Any]:
        """Open a file."""
        with self._files.open(os.fspath(path), mode) as stream:
            yield stream

    def exists(self, path: str | os.PathLike[str]) -> bool:
        """Whether a file is there."""
        return bool(self._files.exists(os.fspath(path)))
