"""Transformed models of Transformers from folders that `save_pretrained` wrote.

    model = mhc_compile.from_pretrained("folder")

The library itself loads the weights, into a model that has its hyper-connections already: shards, half precision and
device maps work as for any other model.
"""

from __future__ import annotations

import functools
import os
from collections.abc import Mapping
from typing import Any

from torch import nn

from mhc_compile.errors import InvalidOptionError, UnreadableCheckpointError
from mhc_compile.files.loading import (
    DOWNLOAD,
    Loader,
    check_exists,
    config_of,
    find_record,
    library,
    load,
    record_in_use,
)
from mhc_compile.files.record import RECORD
from mhc_compile.model.owner import own

_BEFORE = "__mhc_before__"


def from_pretrained(folder: str | os.PathLike[str], model_class: type[nn.Module] | None = None, **kwargs: Any) -> Any:
    """The transformed model that `save_pretrained` wrote, with its hyper-connections, in evaluation mode.

    It is traced at its first call. Hyper-connections are fp32 whatever `dtype` says, as after `transform`.

    Args:
        folder: a folder, or the name of a repository of the Hub.
        model_class: class of the model, for one that is not a part of Transformers, or for another one that has a part
            of it, such as the model without its head; None: what `config.json` names.
        **kwargs: of the library's own `from_pretrained`, such as `dtype` and `device_map`.

    Raises:
        UnreadableCheckpointError: there is no such folder, no record of hyper-connections in it, or the checkpoint is
            not whole.
        CheckpointMismatchError: record, weights and model do not belong together.
        NewerCheckpointError: a later version of this package wrote it.
        MissingPackageError: Transformers is not installed.
        InvalidOptionError: `folder` is no path, or `model_class` no class of a model.
    """
    check_exists(folder)
    file = find_record(folder, kwargs)
    if file is None:
        raise UnreadableCheckpointError(
            f"{folder} has no {RECORD}, so nothing says where its hyper-connections belong: write it with "
            "model.save_pretrained(folder) of a transformed model. A folder of a plain model is for "
            "mhc_compile.transform(Model.from_pretrained(folder), ...)"
        )
    return load(_class_of(model_class, folder, kwargs), folder, file, (), kwargs, own)


def enable_from_pretrained() -> None:
    """Have `from_pretrained` of every model class of Transformers load hyper-connections, where a folder has them.

    For code of others that loads a folder by itself, such as a trainer that wants a second model as its reference.
    Folders without hyper-connections are loaded as ever. It lasts until the process ends.

    Raises:
        MissingPackageError: Transformers is not installed.
    """
    base = library().PreTrainedModel
    before = base.__dict__["from_pretrained"].__func__
    if hasattr(before, _BEFORE):
        return

    @functools.wraps(before)
    def loading(kind: Any, pretrained_model_name_or_path: Any = None, *args: Any, **kwargs: Any) -> Any:
        record = None if issubclass(kind, Loader) else record_in_use(pretrained_model_name_or_path, kwargs)
        if record is None:
            return before(kind, pretrained_model_name_or_path, *args, **kwargs)
        return load(kind, pretrained_model_name_or_path, record, args, kwargs, own)

    setattr(loading, _BEFORE, before)
    base.from_pretrained = classmethod(loading)


def _class_of(model_class: Any, folder: Any, kwargs: Mapping[str, Any]) -> Any:
    """The class of a model; one of the library's `Auto` classes names it by the configuration.

    Raises:
        InvalidOptionError: it is no class of a model.
    """
    if model_class is None:
        return _class_in(folder, kwargs)
    mapping = getattr(model_class, "_model_mapping", None)
    if mapping is not None:
        asked = {key: value for key, value in kwargs.items() if key in DOWNLOAD}
        found = mapping[type(library().AutoConfig.from_pretrained(folder, **asked))]
        return found[0] if isinstance(found, (list, tuple)) else found
    if not (isinstance(model_class, type) and issubclass(model_class, library().PreTrainedModel)):
        raise InvalidOptionError(f"model_class={model_class!r} is no class of Transformers' models: leave it out")
    return model_class


def _class_in(folder: Any, kwargs: Mapping[str, Any]) -> Any:
    """The class that `config.json` names."""
    name = (config_of(folder, kwargs).get("architectures") or ["none"])[0]
    kind = getattr(library(), name, None)
    if kind is None:
        raise UnreadableCheckpointError(
            f"{folder} names the class {name}, which is not a part of Transformers: write "
            "mhc_compile.from_pretrained(folder, ModelClass)"
        )
    return kind
