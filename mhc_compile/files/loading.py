"""Load a folder of `save_pretrained` into a model that has its hyper-connections already."""

from __future__ import annotations

import copy
import json
import os
import re
from collections.abc import Callable, Collection, Mapping, Sequence
from pathlib import Path
from typing import Any

from mhc_compile.capture.set_up import finish_set_up
from mhc_compile.errors import (
    CheckpointMismatchError,
    InvalidOptionError,
    MissingPackageError,
    UnreadableCheckpointError,
)
from mhc_compile.files.fitted import fitted
from mhc_compile.files.record import LOCK, RECORD, Record
from mhc_compile.passes.plan.keys import identifier
from mhc_compile.programs.ownership import Served
from mhc_compile.programs.specs import all_specs, initial_sites, weights_of
from mhc_compile.twin.hyper_connections import CHILD
from mhc_compile.twin.module_tree import derived
from mhc_compile.versions import check_versions
from mhc_compile.wording import names_text

Own = Callable[..., Served]
"""`mhc_compile.model.owner.own`, given by whoever asks: the class it makes asks for this module."""
DOWNLOAD = ("revision", "token", "cache_dir", "local_files_only", "force_download", "subfolder")
"""Arguments of the library that say where a file is found."""
_REPOSITORY = re.compile(r"\w[\w.-]*(/\w[\w.-]*)?")
"""Names of repositories of the Hub."""
_KEPT = "_keep_in_fp32_modules_strict"
"""What the library does not cast when it loads in half precision."""


def load_either(kind: Any, folder: Any, args: Sequence[Any], kwargs: Mapping[str, Any], own: Own) -> Any:
    """What `kind.from_pretrained` gives, with hyper-connections where the folder has a record of them."""
    record = record_in_use(folder, kwargs)
    if record is None:
        return kind.from_pretrained(folder, *args, **kwargs)
    return load(kind, folder, record, args, kwargs, own)


def record_in_use(folder: Any, kwargs: Mapping[str, Any]) -> Path | None:
    """The record of a folder, unless a plain model was saved over the transformed one."""
    record = find_record(folder, kwargs)
    return record if record is not None and LOCK in config_of(folder, kwargs) else None


def find_record(folder: Any, kwargs: Mapping[str, Any]) -> Path | None:
    """The record of a folder, or of a repository of the Hub, in a file; None if there is none.

    Args:
        folder: as `from_pretrained` takes it.
        kwargs: of `from_pretrained`; those on the download count.
    """
    return find_file(folder, RECORD, kwargs)


def find_file(folder: Any, name: str, kwargs: Mapping[str, Any]) -> Path | None:
    """The same of any file that lies beside the weights."""
    if folder is None:
        return None
    if os.path.isdir(folder):
        file = Path(folder) / (kwargs.get("subfolder") or "") / name
        return file if file.exists() else None
    asked = {key: kwargs[key] for key in DOWNLOAD if key in kwargs}
    try:
        found = library().utils.cached_file(os.fspath(folder), name, **asked)
    except (OSError, ValueError):  # no such file, repository or network: the library says so where that matters
        return None
    return None if found is None else Path(found)


def check_exists(folder: Any) -> None:
    """Refuse a path to nothing at once: the library would ask the Hub for it, again and again.

    Raises:
        InvalidOptionError: it is no path.
        UnreadableCheckpointError: there is no such folder, and a repository cannot be called so.
    """
    if not isinstance(folder, (str, os.PathLike)):
        raise InvalidOptionError(f"folder is a {type(folder).__name__}: write a path, or the name of a repository")
    if not os.path.isdir(folder) and (isinstance(folder, os.PathLike) or not _REPOSITORY.fullmatch(str(folder))):
        raise UnreadableCheckpointError(
            f"there is no folder {os.fspath(folder)}: write the path that was given to model.save_pretrained(folder), "
            "or the name of a repository of the Hub, owner/name"
        )


def load(kind: Any, folder: Any, file: Path, args: Sequence[Any], kwargs: Mapping[str, Any], own: Own) -> Any:
    """The transformed model of the class `kind`, by the record in `file`.

    Errors are those of `mhc_compile.from_pretrained`; `own` is `mhc_compile.model.owner.own`.
    """
    check_versions()
    record = Record.read(file)
    asked = {**kwargs, LOCK: None, "output_loading_info": True, "ignore_mismatched_sizes": True}
    if hasattr(asked.get("config"), LOCK):
        asked["config"] = copy.copy(asked["config"])
        setattr(asked["config"], LOCK, None)
    try:
        model, info = _loader_of(kind, record, own).from_pretrained(folder, *args, **asked)
    except _broken_files(folder) as error:
        raise UnreadableCheckpointError(
            f"{folder} is incomplete or truncated ({error}): copy it again, or write it again with "
            "model.save_pretrained(folder)"
        ) from error
    model.hyper_connections.rename_by_key()
    needed = {weight for plan in model._mhc.plans for site in plan.sites for weight in site.weights}
    _check_loaded(folder, info, record, whole=kind.__name__ == record.model, needed=needed, kwargs=kwargs)
    return (model, info) if kwargs.get("output_loading_info", False) else model


class Loader:
    """Mixed in before the class of a model that is being loaded: calling it gives the transformed model."""


def _loader_of(kind: Any, record: Record, own: Own) -> Any:
    def construct(config: Any, *args: Any, **kwargs: Any) -> Served:
        kwargs.pop(LOCK, None)  # of a configuration that had none
        return _with_connections(kind(config, *args, **kwargs), record, own)

    return derived(Loader, kind, None, {}, construct)


def _with_connections(plain: Any, record: Record, own: Own) -> Served:
    """A transformed model without weights, by its record. New parameters have the names of the file."""
    fit = fitted(record, plain)
    plans, config = fit.record.plans, fit.record.config
    finish_set_up(plain)
    sites = {key: (fit.stored[key], values) for key, (_, values) in initial_sites(plans, config, plain).items()}
    owner = own(plain, sites, plans, config)
    owner.hyper_connections.weights.update(weights_of(plans))
    kept: Any = getattr(owner, _KEPT, None)
    setattr(owner, _KEPT, {*(kept or ()), CHILD})
    return owner


def _check_loaded(
    folder: Any,
    info: Mapping[str, Any],
    record: Record,
    *,
    whole: bool,
    needed: Collection[str],
    kwargs: Mapping[str, Any],
) -> None:
    """Refuse what the library only tells in its log.

    Args:
        folder: where the weights come from.
        info: what the library says of them.
        record: of the hyper-connections in the folder; a class that is a part of the model has no place for some.
        whole: every weight of the model must be there.
        needed: names of weights that must be there in any case: those of the branches of sites.
        kwargs: of `from_pretrained`.
    """
    known = tuple(f"{CHILD}.{identifier(key)}." for key in all_specs(record.plans, record.config))
    odd = [name for name in info["unexpected_keys"] if name.startswith(CHILD) and not name.startswith(known)]
    shaped = [entry[0] for entry in info["mismatched_keys"]]
    if kwargs.get("ignore_mismatched_sizes", False):
        shaped = [name for name in shaped if name.startswith(CHILD)]
    if odd or shaped:
        raise CheckpointMismatchError(
            f"in {folder}, {names_text(sorted(odd + shaped))} do not belong to the model and the plan that lie there: "
            f"{RECORD}, config.json and the weights must be of one save_pretrained(folder)"
        )
    missing = sorted(name for name in info["missing_keys"] if whole or name.startswith(CHILD) or name in needed)
    if missing and LOCK not in config_of(folder, kwargs):
        raise UnreadableCheckpointError(
            f"in {folder} a model without hyper-connections was saved over one that had them: load it with the class "
            f"of the library, or save the transformed model again. {RECORD} is what is left of it"
        )
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


def config_of(folder: Any, kwargs: Mapping[str, Any]) -> Mapping[str, Any]:
    """What `config.json` says.

    Raises:
        UnreadableCheckpointError: it is missing or truncated.
    """
    asked = {key: kwargs[key] for key in DOWNLOAD if key in kwargs}
    try:
        config: Mapping[str, Any] = library().PretrainedConfig.get_config_dict(folder, **asked)[0]
    except OSError as error:
        raise UnreadableCheckpointError(f"config.json of {folder} is missing or truncated: {error}") from error
    return config


def library() -> Any:
    """Transformers.

    Raises:
        MissingPackageError: it is not installed.
    """
    try:
        import transformers
    except ImportError as error:
        raise MissingPackageError(
            "a folder of save_pretrained needs Transformers: pip install 'mhc-compile[frameworks]'"
        ) from error
    return transformers
