"""`./checkpoint`: the model that a folder of Hugging Face's or timm's was saved from, without its weights."""

from __future__ import annotations

import json
from collections.abc import Mapping
from dataclasses import replace
from pathlib import Path
from typing import Any

from mhc_compile.errors import UnknownTargetError
from mhc_compile.targets.huggingface import build_huggingface, changed, class_names
from mhc_compile.targets.target import Target, require
from mhc_compile.targets.timm import resolve_timm

CONFIG = "config.json"
_WRITE = "write the folder that save_pretrained made, with a config.json in it, or file.py:factory"
_OTHERS = {
    "adapter_config.json": "an adapter: give the folder of the model it belongs to",
    "model_index.json": "a pipeline of several models: give the folder of one of them",
    ".metadata": "a distributed checkpoint, which has weights and no model",
}
"""File that a folder without a configuration may hold -> what the folder is."""


def resolve_folder(folder: Path, *, device: str, config: Mapping[str, object], batch: int) -> Target:
    """Build the model that the configuration in a folder describes, and inputs for it. Weights are not read.

    No code from the folder is run.

    Raises:
        UnknownTargetError: the folder holds no configuration, or one of no model that transformers or timm has.
        MissingPackageError: that library is not installed.
        InvalidOptionError, FactoryError: as for `hf:` and `timm:`.
    """
    saved = _read(folder)
    if "model_type" in saved:
        return _huggingface(folder, saved, device, config, batch)
    if "architecture" in saved:
        return _timm(folder, saved, device, config, batch)
    kind = saved.get("_class_name")  # of diffusers
    raise UnknownTargetError(
        f"{folder / CONFIG} names no model_type of transformers and no architecture of timm"
        + (f", but a {kind}" if kind else "")
        + ": write a factory that builds the model, and file.py:factory"
    )


def _read(folder: Path) -> dict[str, Any]:
    path = folder / CONFIG
    if not path.is_file():
        raise UnknownTargetError(f"the folder {str(folder)!r} has no {CONFIG}{_instead(folder)}: {_WRITE}")
    try:
        saved = json.loads(path.read_text(encoding="utf-8"))
    except (OSError, ValueError) as error:
        raise UnknownTargetError(f"{path} cannot be read ({error}): save the model again, or {_WRITE}") from error
    if not isinstance(saved, dict):
        raise UnknownTargetError(f"{path} holds a {type(saved).__name__}, not a configuration: {_WRITE}")
    return saved


def _instead(folder: Path) -> str:
    """What a folder without a configuration seems to be."""
    for name, kind in _OTHERS.items():
        if (folder / name).is_file():
            return f" and is {kind}"
    below = sorted(path.parent for path in folder.glob(f"*/{CONFIG}"))
    return f", but {', '.join(map(str, below[:3]))} {'has' if len(below) == 1 else 'have'}" if below else ""


def _huggingface(folder: Path, saved: dict[str, Any], device: str, config: Mapping[str, object], batch: int) -> Target:
    auto = require("transformers")
    kind = saved["model_type"]
    if kind not in auto.CONFIG_MAPPING:
        code = ", whose code is in the folder and is not run" if "auto_map" in saved else ""
        raise UnknownTargetError(
            f"{folder / CONFIG} is of the model type {kind!r}{code}, which transformers {auto.__version__} does not "
            "have: install a version that has it, or write a factory and file.py:factory"
        )

    def settings() -> Any:
        return changed(auto.CONFIG_MAPPING[kind].from_dict(saved), config)

    head = next((name for name in class_names(saved) if hasattr(auto, name)), None)
    target = build_huggingface(str(folder), settings, device=device, config=config, batch=batch, head=head)
    named = class_names(saved)
    missing = (f"transformers has no {named[0]}",) if named and head is None else ()
    return replace(target, notes=(*missing, *target.notes))


def _timm(folder: Path, saved: dict[str, Any], device: str, config: Mapping[str, object], batch: int) -> Target:
    known = {"num_classes": saved["num_classes"]} if "num_classes" in saved else {}
    options = {**known, **saved.get("model_args", {}), **config}
    try:
        found = resolve_timm(saved["architecture"], device=device, config=options, batch=batch)
    except UnknownTargetError as error:
        raise UnknownTargetError(f"{folder / CONFIG}: {error}") from error
    return replace(found, name=str(folder))
