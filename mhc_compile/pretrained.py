"""Transformed models of Transformers from folders that `save_pretrained` wrote.

    model = mhc_compile.from_pretrained("folder")

The library itself loads the weights, into a model that has its hyper-connections already: shards, half precision and
device maps work as for any other model.
"""

from __future__ import annotations

import copy
import functools
import json
import os
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from torch import nn

from mhc_compile.errors import CheckpointMismatchError, MissingPackageError, UnreadableCheckpointError
from mhc_compile.hyper_connections import CHILD
from mhc_compile.module_tree import derived
from mhc_compile.owner import Transformed, own
from mhc_compile.record import RECORD, Record
from mhc_compile.saving import LOCK
from mhc_compile.set_up import finish_set_up
from mhc_compile.variants import initial_sites, weights_of
from mhc_compile.versions import check_versions
from mhc_compile.wording import names_text

_DOWNLOAD = ("revision", "token", "cache_dir", "local_files_only", "force_download", "subfolder")
"""Arguments of the library that say where a file is found."""
_KEPT = "_keep_in_fp32_modules_strict"
"""What the library does not cast when it loads in half precision."""
_BEFORE = "__mhc_before__"


def from_pretrained(folder: str | os.PathLike[str], model_class: type[nn.Module] | None = None, **kwargs: Any) -> Any:
    """The transformed model that `save_pretrained` wrote, with its hyper-connections, in evaluation mode.

    It is traced at its first call. Hyper-connections are fp32 whatever `dtype` says, as after `transform`.

    Args:
        folder: a folder, or the name of a repository of the Hub.
        model_class: class of the model, for one that is not a part of Transformers; None: what `config.json` names.
        **kwargs: of the library's own `from_pretrained`, such as `dtype` and `device_map`.

    Raises:
        UnreadableCheckpointError: there is no record of hyper-connections, or the checkpoint is not whole.
        CheckpointMismatchError: record, weights and model do not belong together.
        NewerCheckpointError: a later version of this package wrote it.
        MissingPackageError: Transformers is not installed.
    """
    file = find_record(folder, kwargs)
    if file is None:
        raise UnreadableCheckpointError(
            f"{folder} has no {RECORD}, so nothing says where its hyper-connections belong: write it with "
            "model.save_pretrained(folder) of a transformed model. A folder of a plain model is for "
            "mhc_compile.transform(Model.from_pretrained(folder), ...)"
        )
    return load(model_class or _class_in(folder, kwargs), folder, file, (), kwargs)


def enable_from_pretrained() -> None:
    """Have `from_pretrained` of every model class of Transformers load hyper-connections, where a folder has them.

    For code of others that loads a folder by itself, such as a trainer that wants a second model as its reference.
    Folders without hyper-connections are loaded as ever. It lasts until the process ends.

    Raises:
        MissingPackageError: Transformers is not installed.
    """
    base = _library().PreTrainedModel
    before = base.__dict__["from_pretrained"].__func__
    if hasattr(before, _BEFORE):
        return

    @functools.wraps(before)
    def loading(kind: Any, pretrained_model_name_or_path: Any = None, *args: Any, **kwargs: Any) -> Any:
        record = None if issubclass(kind, _Loader) else _record_in_use(pretrained_model_name_or_path, kwargs)
        if record is None:
            return before(kind, pretrained_model_name_or_path, *args, **kwargs)
        return load(kind, pretrained_model_name_or_path, record, args, kwargs)

    setattr(loading, _BEFORE, before)
    base.from_pretrained = classmethod(loading)


def load_either(kind: Any, folder: Any, args: Sequence[Any], kwargs: Mapping[str, Any]) -> Any:
    """What `kind.from_pretrained` gives, with hyper-connections where the folder has a record of them."""
    record = _record_in_use(folder, kwargs)
    return kind.from_pretrained(folder, *args, **kwargs) if record is None else load(kind, folder, record, args, kwargs)


def _record_in_use(folder: Any, kwargs: Mapping[str, Any]) -> Path | None:
    """The record of a folder, unless a plain model was saved over the transformed one."""
    record = find_record(folder, kwargs)
    return record if record is not None and LOCK in _config(folder, kwargs) else None


def find_record(folder: Any, kwargs: Mapping[str, Any]) -> Path | None:
    """The record of a folder, or of a repository of the Hub, in a file; None if there is none.

    Args:
        folder: as `from_pretrained` takes it.
        kwargs: of `from_pretrained`; those on the download count.
    """
    if folder is None:
        return None
    if os.path.isdir(folder):
        file = Path(folder) / kwargs.get("subfolder", "") / RECORD
        return file if file.exists() else None
    asked = {key: kwargs[key] for key in _DOWNLOAD if key in kwargs}
    try:
        found = _library().utils.cached_file(os.fspath(folder), RECORD, **asked)
    except OSError:  # no such file, repository or network: the library says so itself where that matters
        return None
    return None if found is None else Path(found)


def load(kind: Any, folder: Any, file: Path, args: Sequence[Any], kwargs: Mapping[str, Any]) -> Any:
    """The transformed model of the class `kind`, by the record in `file`. Errors are those of `from_pretrained`."""
    check_versions()
    record = Record.read(file)
    asked = {**kwargs, LOCK: None, "output_loading_info": True, "ignore_mismatched_sizes": True}
    if hasattr(asked.get("config"), LOCK):
        asked["config"] = copy.copy(asked["config"])
        setattr(asked["config"], LOCK, None)
    try:
        model, info = _loader_of(kind, record).from_pretrained(folder, *args, **asked)
    except _broken_files(folder) as error:
        raise UnreadableCheckpointError(
            f"{folder} is incomplete or truncated ({error}): copy it again, or write it again with "
            "model.save_pretrained(folder)"
        ) from error
    _check_loaded(folder, info, whole=kind.__name__ == record.model, kwargs=kwargs)
    return (model, info) if kwargs.get("output_loading_info", False) else model


class _Loader:
    """Mixed in before the class of a model that is being loaded: calling it gives the transformed model."""


def _loader_of(kind: Any, record: Record) -> Any:
    def construct(config: Any, *args: Any, **kwargs: Any) -> Transformed:
        kwargs.pop(LOCK, None)  # of a configuration that had none
        return _with_connections(kind(config, *args, **kwargs), record)

    return derived(_Loader, kind, {}, construct)


def _with_connections(plain: Any, record: Record) -> Transformed:
    """A transformed model without weights, by its record."""
    names = {name for name, _ in plain.named_modules()}
    foreign = sorted({site.module for plan in record.plans for site in plan.sites} - names)
    if foreign:
        raise CheckpointMismatchError(
            f"{RECORD} is of a {record.model}, and this {type(plain).__name__} has no modules {names_text(foreign)}: "
            "load the class that was saved, with the files that were saved together"
        )
    finish_set_up(plain)
    owner = own(plain, initial_sites(record.plans, record.config, plain), record.plans, record.config)
    owner.hyper_connections.weights.update(weights_of(record.plans))
    kept: Any = getattr(owner, _KEPT, None)
    setattr(owner, _KEPT, {*(kept or ()), CHILD})
    return owner


def _check_loaded(folder: Any, info: Mapping[str, Any], *, whole: bool, kwargs: Mapping[str, Any]) -> None:
    """Refuse what the library only tells in its log.

    Args:
        folder: where the weights come from.
        info: what the library says of them.
        whole: every weight of the model must be there.
        kwargs: of `from_pretrained`.
    """
    odd = [name for name in info["unexpected_keys"] if name.startswith(CHILD)]
    shaped = [entry[0] for entry in info["mismatched_keys"]]
    if kwargs.get("ignore_mismatched_sizes", False):
        shaped = [name for name in shaped if name.startswith(CHILD)]
    if odd or shaped:
        raise CheckpointMismatchError(
            f"in {folder}, {names_text(sorted(odd + shaped))} do not belong to the model and the plan that lie there: "
            f"{RECORD}, config.json and the weights must be of one save_pretrained(folder)"
        )
    missing = sorted(name for name in info["missing_keys"] if whole or name.startswith(CHILD))
    if missing:
        raise UnreadableCheckpointError(
            f"{folder} is incomplete, it has no {names_text(missing)}: write it again with "
            "model.save_pretrained(folder)"
        )


def _broken_files(folder: Any) -> tuple[type[Exception], ...]:
    """Errors by which the library says that files are missing or truncated."""
    from safetensors import SafetensorError

    missing = (OSError,) if os.path.isdir(folder) else ()  # else it is the network
    return (SafetensorError, json.JSONDecodeError, *missing)


def _class_in(folder: Any, kwargs: Mapping[str, Any]) -> Any:
    """The class that `config.json` names."""
    name = (_config(folder, kwargs).get("architectures") or ["none"])[0]
    kind = getattr(_library(), name, None)
    if kind is None:
        raise UnreadableCheckpointError(
            f"{folder} names the class {name}, which is not a part of Transformers: write "
            "mhc_compile.from_pretrained(folder, ModelClass)"
        )
    return kind


def _config(folder: Any, kwargs: Mapping[str, Any]) -> Mapping[str, Any]:
    asked = {key: kwargs[key] for key in _DOWNLOAD if key in kwargs}
    try:
        config: Mapping[str, Any] = _library().PretrainedConfig.get_config_dict(folder, **asked)[0]
    except OSError as error:
        raise UnreadableCheckpointError(f"config.json of {folder} is missing or truncated: {error}") from error
    return config


def _library() -> Any:
    try:
        import transformers
    except ImportError as error:
        raise MissingPackageError(
            "a folder of save_pretrained needs Transformers: pip install 'mhc-compile[frameworks]'"
        ) from error
    return transformers
