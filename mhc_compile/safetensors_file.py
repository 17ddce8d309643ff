"""State dicts as safetensors files, with what the format itself does not know.

safetensors stores tensors by name, each with memory of its own. Tied parameters are stored once, and whatever is no
tensor (an extra state of another module) as the bytes of `torch.save`; the metadata of the file names both kinds, so
other readers see a plain file.
"""

from __future__ import annotations

import io
import json
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from mhc_compile.checkpoint import unpickle
from mhc_compile.errors import MissingPackageError, UnreadableCheckpointError
from mhc_compile.header import KEY, Header

_ENTRY = "mhc_compile"


@dataclass(frozen=True)
class _Parts:
    """A state dict taken apart.

    Attributes:
        tensors: contiguous, none sharing memory with another.
        tied: name -> name of the entry it is the same tensor as.
        pickled: names of entries that were no tensors.
    """

    tensors: dict[str, Tensor]
    tied: dict[str, str]
    pickled: list[str]


def to_bytes(state: Mapping[str, Any]) -> bytes:
    """The content of a safetensors file.

    Raises:
        MissingPackageError: safetensors is not installed.
    """
    parts = _take_apart(state)
    about = {"tied": parts.tied, "pickled": parts.pickled, "connections": _headers(state)}
    content: bytes = _library().save(parts.tensors, {"format": "pt", _ENTRY: json.dumps(about)})
    return content


def from_file(path: Path, map_location: Any = "cpu") -> dict[str, Any]:
    """The state dict in a file, which may come from another program.

    Raises:
        UnreadableCheckpointError: it is truncated or no safetensors file.
        UnsafeCheckpointError: an entry that is no tensor asks for code to be run.
        MissingPackageError: safetensors is not installed.
    """
    library = _library()
    content = path.read_bytes()
    try:
        tensors = library.load(content)
        about = json.loads(_metadata(content).get(_ENTRY, "{}"))
        pickled, tied = about.get("pickled", []), about.get("tied", {})
        state: dict[str, Any] = {name: t.to(map_location) for name, t in tensors.items() if name not in pickled}
        blobs = {name: tensors[name] for name in pickled}
        state.update({name: state[kept] for name, kept in tied.items()})
    except Exception as error:  # SafetensorError, or metadata that someone else wrote
        raise UnreadableCheckpointError(
            f"{path} is truncated or no safetensors file ({error}): load one that mhc_compile.checkpoint.save or "
            "safetensors wrote to its end"
        ) from error
    for name, blob in blobs.items():
        state[name] = unpickle(io.BytesIO(bytes(blob.tolist())), f"{path}: {name}", map_location)
    return state


def _take_apart(state: Mapping[str, Any]) -> _Parts:
    parts = _Parts({}, {}, [])
    first: dict[tuple[Any, ...], str] = {}
    for name, value in state.items():
        if not isinstance(value, Tensor):
            parts.tensors[name] = _pickle(value)
            parts.pickled.append(name)
        elif (kept := first.setdefault(_memory(value, name), name)) != name:
            parts.tied[name] = kept
        else:
            # A clone: views of one tensor, such as the parts of a fused weight, become tensors of their own.
            parts.tensors[name] = value.detach().cpu().clone(memory_format=torch.contiguous_format)
    return parts


def _memory(tensor: Tensor, name: str) -> tuple[Any, ...]:
    """Equal for tensors that are the same; a tensor without memory is only itself."""
    if tensor.numel() == 0 or tensor.is_meta:
        return (name,)
    return tensor.data_ptr(), tensor.device, tensor.dtype, tensor.shape, tensor.stride()


def _pickle(value: Any) -> Tensor:
    buffer = io.BytesIO()
    torch.save(value, buffer)
    return torch.frombuffer(bytearray(buffer.getvalue()), dtype=torch.uint8)


def _headers(state: Mapping[str, Any]) -> dict[str, str]:
    """For people and tools that look at the metadata only: what the hyper-connections of the checkpoint are."""
    return {name: str(Header.from_tensor(value, name)) for name, value in state.items() if name.endswith(KEY)}


def _metadata(content: bytes) -> dict[str, str]:
    """The `__metadata__` of a file whose header safetensors has checked: 8 bytes of length, then JSON."""
    length = int.from_bytes(content[:8], "little")
    found: dict[str, str] = json.loads(content[8 : 8 + length]).get("__metadata__", {})
    return found


def _library() -> Any:
    try:
        import safetensors.torch
    except ImportError as error:
        raise MissingPackageError(
            "a .safetensors file needs the safetensors package: pip install 'mhc-compile[safetensors]', or write .pt"
        ) from error
    return safetensors.torch
