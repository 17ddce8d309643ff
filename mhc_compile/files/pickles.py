"""Pickles as data: read without running what they ask for, and checked for that before they are written."""

from __future__ import annotations

import io
import os
import pickle
import pickletools
import re
import zipfile
from collections import OrderedDict
from collections.abc import Iterator, Mapping
from typing import IO, Any

import torch

from mhc_compile.errors import UnloadableEntryError, UnreadableCheckpointError, UnsafeCheckpointError

ADVICE = "load a file that mhc_compile.checkpoint.save or torch.save(model.state_dict(), path) wrote to its end"
_NOISE = ("Weights only load failed", "(1)", "(2)", "Please file an issue")  # lines of torch.load that say nothing
_TENSORS = ("torch.", "collections.OrderedDict")  # what state dicts are made of
_PLAIN = (type(None), bool, int, float, complex, str, bytes)
_LISTS = (list, tuple)
_MAPPINGS = (dict, OrderedDict)


def unpickle(file: IO[bytes], source: str | os.PathLike[str], map_location: Any = "cpu") -> Any:
    """`torch.load(weights_only=True)` of a file from `source`, with this package's errors.

    Raises:
        UnreadableCheckpointError: it is truncated, or no checkpoint.
        UnsafeCheckpointError: it asks for code to be run. It was not.
    """
    try:
        return torch.load(file, map_location=map_location, weights_only=True)
    except pickle.UnpicklingError as error:
        reason = _what_it_asks_for(file, error)
        if reason is not None:
            raise UnsafeCheckpointError(
                f"{source} asks for more than tensors and plain data: {reason}. Nothing in it was run. "
                "Save model.state_dict(), not the model; and open no file from a source that you do not trust"
            ) from error
        raise UnreadableCheckpointError(f"{source} is no checkpoint: {describe(error)}. {ADVICE}") from error
    except Exception as error:  # torch, zipfile and pickle raise whatever the bytes lead them to
        raise UnreadableCheckpointError(
            f"{source} is truncated or no checkpoint: {describe(error)}. {ADVICE}"
        ) from error


def check_entries(state: Mapping[str, Any]) -> None:
    """Make sure that what is about to be written can be read as data, before anything is replaced by it.

    Tensors are left out, so the size of the model does not matter.

    Raises:
        UnloadableEntryError: it names the first entry that cannot.
    """
    for name, value in _entries(state, ""):
        buffer = io.BytesIO()
        try:
            torch.save(value, buffer)
            buffer.seek(0)
            unpickle(buffer, name)
        except Exception as error:  # pickle raises whatever the object leads it to
            raise UnloadableEntryError(
                f"{name} is a {type(value).__module__}.{type(value).__qualname__}, which a checkpoint cannot be read "
                "with, so nothing was written: save tensors and plain Python data, such as vars(namespace), str(path), "
                "or torch.from_numpy(array)"
            ) from error


def describe(error: BaseException) -> str:
    """The kind of an error, and the first line of it that says something."""
    lines = [line.strip() for line in str(error).splitlines() if line.strip()]
    telling = [line for line in lines if not line.startswith(_NOISE)]
    kind = type(error).__name__
    return f"{kind}: {(telling or lines)[0].rstrip('.')}" if lines else kind


def _entries(value: Any, name: str) -> Iterator[tuple[str, Any]]:
    """Path and value of everything in nested containers that is neither tensor nor plain."""
    if type(value) in _MAPPINGS:
        for key, entry in value.items():
            yield from _entries(key, f"the name {key!r}")
            yield from _entries(entry, f"{name}[{key!r}]")
    elif type(value) in _LISTS:
        for number, entry in enumerate(value):
            yield from _entries(entry, f"{name}[{number}]")
    elif type(value) not in _PLAIN and not isinstance(value, torch.Tensor):
        yield f"state{name}", value


def _what_it_asks_for(file: IO[bytes], error: Exception) -> str | None:
    """What a refused pickle asks for; None if it is refused for something else."""
    if re.search("unsupported (global|class)", str(error), re.IGNORECASE):
        return describe(error).partition(": ")[2]
    if "Unsupported operand" in str(error):  # another protocol than PyTorch writes, in which it looks nothing up
        names = [name for name in _names(_content(file)) if not name.startswith(_TENSORS)]
        return f"it is a pickle that names {names[0]}" if names else None
    return None


def _content(file: IO[bytes]) -> bytes:
    """The pickle in a file: that of the archive, or the file itself."""
    file.seek(0)
    if zipfile.is_zipfile(file):
        with zipfile.ZipFile(file) as archive:
            return next((archive.read(n) for n in archive.namelist() if n.endswith("/data.pkl")), b"")
    file.seek(0)
    return file.read()


def _names(content: bytes) -> list[str]:
    """The globals that a pickle names, of any protocol; none if it is not a whole pickle. Nothing is looked up."""
    strings: list[str] = []
    names = []
    try:
        for opcode, argument, _ in pickletools.genops(content):
            if opcode.name in ("GLOBAL", "INST"):
                names.append(str(argument).replace(" ", "."))
            elif opcode.name == "STACK_GLOBAL":
                names.append(".".join(strings[-2:]))
            elif isinstance(argument, str):
                strings.append(argument)
    except Exception:  # whatever the bytes lead to
        return []
    return names
