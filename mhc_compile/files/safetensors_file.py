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

from mhc_compile.errors import MissingPackageError, UnreadableCheckpointError
from mhc_compile.files.pickles import unpickle
from mhc_compile.twin.header import KEY, Header

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


def write_file(state: Mapping[str, Any], path: Path) -> None:
    """Write a safetensors file.

    Raises:
        MissingPackageError: safetensors is not installed.
    """
    parts = _take_apart(state)
    about = {"tied": parts.tied, "pickled": parts.pickled, "connections": _headers(state)}
    library = _library()
    path.touch()
    mode = path.stat().st_mode
    library.torch.save_file(parts.tensors, str(path), {"format": "pt", _ENTRY: json.dumps(about)})
    path.chmod(mode)  # the library makes files that only their owner may read


def read_file(path: Path, map_location: Any = "cpu") -> dict[str, Any]:
    """The state dict in a file, which may come from another program.

    Raises:
        UnreadableCheckpointError: it is truncated or no safetensors file.
        UnsafeCheckpointError: an entry that is no tensor asks for code to be run.
        MissingPackageError: safetensors is not installed.
        FileNotFoundError: there is no such file.
    """
    library = _library()
    try:
        with library.safe_open(str(path), "pt") as file:
            about = json.loads((file.metadata() or {}).get(_ENTRY, "{}"))
            state: dict[str, Any] = {name: file.get_tensor(name).to(map_location) for name in file.keys()}  # noqa: SIM118
        blobs = {name: state[name].cpu().numpy().tobytes() for name in about.get("pickled", ())}
        state.update({name: state[kept] for name, kept in about.get("tied", {}).items()})
    except FileNotFoundError:
        raise
    except Exception as error:  # SafetensorError, or metadata that someone else wrote
        raise UnreadableCheckpointError(
            f"{path} is truncated or no safetensors file ({error}): load one that mhc_compile.checkpoint.save or "
            "safetensors wrote to its end"
        ) from error
    return state | {name: unpickle(io.BytesIO(b), f"{path}: {name}", map_location) for name, b in blobs.items()}


def _take_apart(state: Mapping[str, Any]) -> _Parts:
    parts = _Parts({}, {}, [])
    first: dict[tuple[Any, ...], str] = {}
    storages: set[int] = set()
    for name, value in state.items():
        if not isinstance(value, Tensor):
            parts.tensors[name] = _pickle(value)
            parts.pickled.append(name)
        elif (kept := first.setdefault(_memory(value, name), name)) != name:
            parts.tied[name] = kept
        else:
            parts.tensors[name] = _separate(value.detach().cpu().contiguous(), storages)
    return parts


def _separate(tensor: Tensor, storages: set[int]) -> Tensor:
    """A copy where an entry before has the same storage: two parts of one tensor, such as those of a fused weight."""
    storage = tensor.untyped_storage().data_ptr()
    if storage in storages:
        return tensor.clone()
    storages.add(storage)
    return tensor


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


def _library() -> Any:
    try:
        import safetensors
        import safetensors.torch
    except ImportError as error:
        raise MissingPackageError(
            "a .safetensors file needs the safetensors package: pip install 'mhc-compile[safetensors]', or write .pt"
        ) from error
    return safetensors
