"""`save_pretrained` of a transformed model of Transformers: writes what was rewritten, and locks out the plain class.

`from_pretrained` of the plain class would take the weights of the model, drop the hyper-connections with a note in the
log, and compute something else. Nothing of this package runs in such a process, so the folder itself must say it: the
library refuses a `transformers_weights` in `config.json` that names no file, and prints what it names instead.
"""

from __future__ import annotations

import inspect
import json
import os
import sys
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

from mhc_compile.files.adapters import is_adapted, methods_of_adapted, write_apart
from mhc_compile.files.atomic import write_atomically
from mhc_compile.files.loading import load_either
from mhc_compile.files.record import LOCK, Record

_CONFIG = "config.json"
_ADAPTED = "_hf_peft_config_loaded"
_RENAMED = "save_original_format"
"""Whether the library writes weights under the names of earlier versions of a model, as for mixtures of experts."""


def is_pretrained(kind: type) -> bool:
    """Whether a class of models is one of Transformers."""
    library: Any = sys.modules.get("transformers.modeling_utils")
    return library is not None and issubclass(kind, library.PreTrainedModel)


def methods_of_pretrained(original: Any, own: Callable[..., Any]) -> dict[str, Any]:
    """Methods for the transformed class of a model of Transformers; none for others. `own` is that of `owner.py`."""
    if is_adapted(original):
        return methods_of_adapted(original)
    if not is_pretrained(original):
        return {}

    def from_pretrained(kind: Any, folder: Any, *args: Any, **kwargs: Any) -> Any:
        """The transformed model in a folder, or the plain one, where there is no hyper-connection."""
        return load_either(original, folder, args, kwargs, own)

    return {"save_pretrained": _saving(original), "from_pretrained": classmethod(from_pretrained)}


def _saving(original: Any) -> Callable[..., None]:
    signature = inspect.signature(original.save_pretrained)

    def save_pretrained(self: Any, *args: Any, **kwargs: Any) -> None:
        """As in the original class, with `hyper_connections.json` beside the weights."""
        bound = signature.bind(self, *args, **kwargs)
        bound.apply_defaults()
        given = bound.arguments
        if _RENAMED in given:  # its patterns would take names of hyper-connections for those of modules
            given[_RENAMED] = False
        folder, hub = Path(given["save_directory"]), _taken_for_hub(given)
        writes = _writes_model(self, given)
        if writes:
            folder.mkdir(parents=True, exist_ok=True)
            Record.of(self).write(folder)
        original.save_pretrained(*bound.args, **bound.kwargs)
        if writes:
            lock(folder)
        elif getattr(self, _ADAPTED, False) and given.get("is_main_process", True):
            write_apart(self, folder)
        if hub is not None:
            self.push_to_hub(hub.pop("repo_id", folder.name), **hub)

    save_pretrained.__signature__ = signature  # type: ignore[attr-defined]
    return save_pretrained


def _writes_model(model: Any, given: Mapping[str, Any]) -> bool:
    """Whether this process writes the whole model: not with adapters of Transformers, which are saved alone."""
    adapters = getattr(model, _ADAPTED, False)
    return not adapters and given.get("is_main_process", True) and not os.path.isfile(given["save_directory"])


def _taken_for_hub(given: dict[str, Any]) -> dict[str, Any] | None:
    """What an upload is asked for with, None for none. It comes last, for the library would begin before the end."""
    if not given.get("push_to_hub", False):
        return None
    given["push_to_hub"] = False
    others = given.get("kwargs", {})
    asked = {key: others.pop(key) for key in ("repo_id", "commit_message", "create_pr", "private") if key in others}
    return {**asked, "token": given.get("token")}


def lock(folder: Path) -> None:
    """Have the library refuse the folder, if this process is the one that wrote its configuration."""
    file = folder / _CONFIG
    if not file.exists():
        return
    config = json.loads(file.read_text(encoding="utf-8"))
    config[LOCK] = (
        "this model has hyper-connections, which its plain class would leave out. Load it with "
        "mhc_compile.from_pretrained(folder), or call mhc_compile.enable_from_pretrained() first "
        "(pip install mhc-compile)"
    )
    text = json.dumps(config, indent=2, sort_keys=True) + os.linesep
    write_atomically(file, lambda beside: beside.write_text(text, encoding="utf-8"))
