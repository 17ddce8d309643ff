"""Checkpoints of adapters of PEFT: they hold the adapter alone, so hyper-connections lie in a file beside it."""

from __future__ import annotations

import functools
import sys
import warnings
from collections.abc import Callable
from pathlib import Path
from typing import Any

from mhc_compile.errors import SavedApartWarning
from mhc_compile.files.atomic import write_atomically
from mhc_compile.files.safetensors_file import read_file, write_file
from mhc_compile.passes.plan.data import OWNER

APART = "hyper_connections.safetensors"
"""Where hyper-connections are written, if it is not the model that is saved."""


def is_adapted(kind: type) -> bool:
    """Whether a class is one of PEFT's around a model with an adapter."""
    library: Any = sys.modules.get("peft")
    return library is not None and issubclass(kind, library.PeftModel)


def methods_of_adapted(original: Any) -> dict[str, Callable[..., Any]]:
    """Methods for the transformed class of a model of PEFT."""

    @functools.wraps(original.save_pretrained)
    def save_pretrained(self: Any, save_directory: Any, *args: Any, **kwargs: Any) -> None:
        original.save_pretrained(self, save_directory, *args, **kwargs)
        if kwargs.get("is_main_process", True):
            write_apart(self, Path(save_directory))

    @functools.wraps(original.load_adapter)
    def load_adapter(self: Any, model_id: Any, adapter_name: str, *args: Any, **kwargs: Any) -> Any:
        there = adapter_name in self.peft_config
        result = original.load_adapter(self, model_id, adapter_name, *args, **kwargs)
        file = Path(model_id) / APART
        if file.is_file() and there:  # the model goes back to a checkpoint of its own, as in a trainer that resumes
            self.load_state_dict(read_file(file), strict=False)
        elif file.is_file():
            warnings.warn(
                f"the hyper-connections that {adapter_name!r} was trained with are in {file}, and the model keeps its "
                f"own: if it is to have those, write {_loading(file)}",
                SavedApartWarning,
                stacklevel=2,
            )
        return result

    return {"save_pretrained": save_pretrained, "load_adapter": load_adapter}


def write_apart(model: Any, folder: Path) -> None:
    """Write the hyper-connections into a file of their own, where only an adapter was saved, and say how to load it."""
    state = {name: value for name, value in model.state_dict().items() if name.startswith(f"{OWNER}.")}
    file = folder / APART
    write_atomically(file, lambda beside: write_file(state, beside))
    resumed = "A trainer that resumes loads both. " if is_adapted(type(model)) else ""
    warnings.warn(
        f"the checkpoint of an adapter holds the adapter alone, so the hyper-connections are in {file}. {resumed}"
        f"In a new process, load the adapter, transform the model as before, and write {_loading(file)}. To have them "
        "in the checkpoint itself, transform first, and name hyper_connections among modules_to_save of the adapter",
        SavedApartWarning,
        stacklevel=3,
    )


def _loading(file: Path) -> str:
    return f"model.load_state_dict(mhc_compile.checkpoint.load({str(file)!r}), strict=False)"
