"""Checkpoints of adapters of PEFT: they hold the adapter alone, so hyper-connections lie in a file beside it."""

from __future__ import annotations

import functools
import inspect
import os
import sys
import warnings
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

from mhc_compile.errors import CheckpointMismatchError, SavedApartWarning
from mhc_compile.files.atomic import write_atomically
from mhc_compile.files.loading import find_file
from mhc_compile.files.safetensors_file import read_file, write_file
from mhc_compile.passes.plan.data import OWNER
from mhc_compile.twin.header import check_state
from mhc_compile.wording import names_text

APART = "hyper_connections.safetensors"
"""Where hyper-connections are written, if it is not the model that is saved."""


def is_adapted(kind: type) -> bool:
    """Whether a class is one of PEFT's around a model with an adapter."""
    library: Any = sys.modules.get("peft")
    return library is not None and issubclass(kind, library.PeftModel)


def methods_of_adapted(original: Any) -> dict[str, Callable[..., Any]]:
    """Methods for the transformed class of a model of PEFT."""
    signature = inspect.signature(original.save_pretrained)

    @functools.wraps(original.save_pretrained)
    def save_pretrained(self: Any, *args: Any, **kwargs: Any) -> None:
        original.save_pretrained(self, *args, **kwargs)
        given = signature.bind(self, *args, **kwargs).arguments
        if given.get("is_main_process", True):
            write_apart(self, Path(given["save_directory"]))

    @functools.wraps(original.load_adapter)
    def load_adapter(self: Any, model_id: Any, adapter_name: str, *args: Any, **kwargs: Any) -> Any:
        there, file = adapter_name in self.peft_config, _find(model_id, adapter_name, kwargs)
        # The model goes back to a checkpoint of its own, as in a trainer that resumes; nothing is loaded by halves.
        state = _checked(self, file) if there and file is not None else {}
        result = original.load_adapter(self, model_id, adapter_name, *args, **kwargs)
        if state:
            self.load_state_dict(state, strict=False)
        elif file is not None:
            warnings.warn(
                f"the hyper-connections that {adapter_name!r} was trained with are in {file}, and the model keeps its "
                f"own: if it is to have those, write {_loading(file)}",
                SavedApartWarning,
                stacklevel=2,
            )
        return result

    return {"save_pretrained": save_pretrained, "load_adapter": load_adapter}


def _find(model_id: Any, adapter_name: str, kwargs: Mapping[str, Any]) -> Path | None:
    """The file beside an adapter. Those of another name than `default` lie in folders of their own."""
    beside = find_file(model_id, APART, kwargs)
    if beside is None and os.path.isdir(model_id) and Path(model_id).name == adapter_name:
        return find_file(Path(model_id).parent, APART, {})
    return beside


def _checked(model: Any, file: Path) -> dict[str, Any]:
    """The hyper-connections in a file.

    Raises:
        CheckpointMismatchError: they are not those of the model.
        UnreadableCheckpointError: the file is truncated.
    """
    state, own = read_file(file), _own_state(model)
    check_state(state, model.hyper_connections.header)
    others = [name for name in {**own, **state} if name not in own or name not in state]
    others += [name for name in own if name in state and own[name].shape != state[name].shape]
    if others:
        raise CheckpointMismatchError(
            f"{file} and the model differ in {names_text(sorted(others))}: transform the model as it was when the "
            "adapter was saved, with the same include, exclude and nested"
        )
    return state


def write_apart(model: Any, folder: Path) -> None:
    """Write the hyper-connections into a file of their own, where only an adapter was saved, and say how to load it."""
    state, file = _own_state(model), folder / APART
    write_atomically(file, lambda beside: write_file(state, beside))
    resumed = "A trainer that resumes loads both. " if is_adapted(type(model)) else ""
    warnings.warn(
        f"the checkpoint of an adapter holds the adapter alone, so the hyper-connections are in {file}. {resumed}"
        f"In a new process, load the adapter, transform the model as before, and write {_loading(file)}. To have them "
        "in the checkpoint itself, transform first, and name hyper_connections among modules_to_save of the adapter",
        SavedApartWarning,
        stacklevel=3,
    )


def _own_state(model: Any) -> dict[str, Any]:
    return {name: value for name, value in model.state_dict().items() if name.startswith(f"{OWNER}.")}


def _loading(file: Path) -> str:
    return f"model.load_state_dict(mhc_compile.checkpoint.load({str(file)!r}), strict=False)"
