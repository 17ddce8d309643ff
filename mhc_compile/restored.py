"""A model with the hyper-connections and the weights of a checkpoint: what the command line looks at."""

from __future__ import annotations

import os
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from torch import nn

from mhc_compile import checkpoint
from mhc_compile.capture.inputs import Inputs, missing_inputs, resolve_inputs
from mhc_compile.errors import CheckpointMismatchError, MissingCheckpointError, UnreadableCheckpointError
from mhc_compile.transform import transform
from mhc_compile.twin.header import KEY, Header
from mhc_compile.wording import count_text, names_text

_PARTS = ("model", "state_dict", "model_state_dict", "module")
"""Under which name a checkpoint keeps the state of the model, where it holds more than that."""
_FILES = ("model.safetensors", "pytorch_model.bin")
"""Weights in a folder of `save_pretrained`."""


@dataclass(frozen=True)
class Restored:
    """A transformed model that can be called.

    Attributes:
        model: the model.
        inputs: of a call.
        note: where the weights come from, for a reader.
    """

    model: Any  # of the class of the plain one
    inputs: Inputs
    note: str


def restored(
    model: nn.Module, inputs: Mapping[str, Any], options: Mapping[str, Any], path: str | os.PathLike[str] | None
) -> Restored:
    """The transformed model with the weights of a checkpoint.

    Args:
        model: plain, with memory.
        inputs: `example_inputs` and `example_kwargs`, as for `transform`; none: those that the model declares.
        options: of `transform`; what the checkpoint says of its hyper-connections counts more.
        path: as for `read_state`; None: the weights stay.

    Raises:
        NothingToTransformError: the model has no residual connection that is rewritten.
        MhcError: as for `transform`, `read_state` and `load_into`.
    """
    state = None if path is None else read_state(path)
    header = None if state is None else header_of(state)
    made = {} if header is None else {"connection": header.connection, "n": header.n, "reduce": header.reduce}
    made |= {"init": "random"} if made.get("reduce") == "sum" else {}
    mode = "train" if model.training else "eval"
    hyper = transform(model, **{**options, **made}, **inputs, modes=(mode,), strict=True)
    call = resolve_inputs(model, inputs.get("example_inputs"), inputs.get("example_kwargs"))
    if call is None:
        raise missing_inputs(model, "a call is looked at")
    if state is None or path is None:
        return Restored(hyper, call, "no checkpoint: initial values")
    load_into(hyper, state, path)
    plain = "" if header else ", a plain model: hyper-connections have initial values"
    return Restored(hyper, call, f"weights of {path}{plain}")


def read_state(path: str | os.PathLike[str]) -> dict[str, Any]:
    """The state dict of a model from a checkpoint: a file, or a folder of `save_pretrained`.

    Found are states that lie in the checkpoint by themselves or under `model`, `state_dict` and the like; what wrappers
    and trainers put in front of all names is taken off.

    Raises:
        MissingCheckpointError: there is no such file, or no weights in the folder.
        UnreadableCheckpointError: it holds no state of a model.
        UnsafeCheckpointError: it asks for code to be run. It was not.
    """
    loaded = checkpoint.load(find_file(path))
    for state in (loaded, *(loaded[name] for name in _PARTS if isinstance(loaded.get(name), Mapping))):
        if any(isinstance(value, torch.Tensor) for value in state.values()):
            return dict(_without_prefix(state))
    raise UnreadableCheckpointError(
        f"{path} holds no state of a model, only {names_text(list(map(str, loaded)))}: write a checkpoint with "
        "mhc_compile.checkpoint.save({'model': model.state_dict()}, path)"
    )


def header_of(state: Mapping[str, Any]) -> Header | None:
    """Which hyper-connections a state has; None for a plain model.

    Raises:
        NewerCheckpointError, UnreadableCheckpointError: see `Header.from_tensor`.
    """
    return Header.from_tensor(state[KEY]) if KEY in state else None


def load_into(model: nn.Module, state: Mapping[str, Any], path: str | os.PathLike[str]) -> None:
    """Load a state that `read_state` found at `path`.

    Raises:
        CheckpointMismatchError: it is of another model.
    """
    own = model.state_dict()
    missing, unknown = [k for k in own if k not in state], [k for k in state if k not in own]
    plain = KEY not in state
    lacking = [name for name in missing if not (plain and name.startswith(KEY.partition(".")[0]))]
    shapes = [k for k, v in own.items() if isinstance(state.get(k), torch.Tensor) and state[k].shape != v.shape]
    reasons = [
        f"{count_text(len(names), 'name')} {what} ({names_text(names, 3)})"
        for names, what in ((lacking, "are missing"), (unknown, "are unknown"), (shapes, "have another shape"))
        if names
    ]
    if reasons:
        raise CheckpointMismatchError(
            f"{path} is a checkpoint of another model than {type(model).__name__}: {'; '.join(reasons)}. Name the "
            "model that it was made of, with the --config, --include, --exclude and --nested it was made with"
        )
    model.load_state_dict(dict(state))


def find_file(path: str | os.PathLike[str]) -> Path:
    """The file at a path; of a folder, that with the weights.

    Raises:
        MissingCheckpointError: there is none.
    """
    path = Path(path)
    if path.is_dir():
        found = [path / name for name in _FILES if (path / name).is_file()]
        if not found:
            raise MissingCheckpointError(f"there are no weights in the folder {path}: name a file")
        return found[0]
    if not path.is_file():
        raise MissingCheckpointError(f"there is no checkpoint {path}: name a file that was written in a training")
    return path


def _without_prefix(state: Mapping[str, Any]) -> Iterator[tuple[str, Any]]:
    """Names without what stands in front of all of them; the header of hyper-connections tells where they begin."""
    headers = [name for name in state if name.endswith(KEY)]
    prefix = headers[0].removesuffix(KEY) if headers else _common_prefix(list(state))
    return ((name.removeprefix(prefix), value) for name, value in state.items() if name.startswith(prefix))


def _common_prefix(names: list[str]) -> str:
    return next((p for p in ("module.", "_orig_mod.") if all(name.startswith(p) for name in names)), "")
