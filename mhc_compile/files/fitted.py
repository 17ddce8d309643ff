"""A record for a class that is related to the one that was saved.

The library loads a model with a head, the model alone, and a part such as the encoder, each from a folder of another.
Its classes call the part that several of them share by one name, `base_model_prefix`.
"""

from __future__ import annotations

import glob
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, replace
from typing import Any

from torch import nn

from mhc_compile.config import Config
from mhc_compile.errors import CheckpointMismatchError
from mhc_compile.files.record import RECORD, Record
from mhc_compile.passes.plan.data import Plan, Site
from mhc_compile.passes.plan.keys import identifier
from mhc_compile.passes.plan.moved import Move, Moved, moved_plan
from mhc_compile.programs.specs import all_specs
from mhc_compile.wording import names_text


@dataclass(frozen=True)
class Fitted:
    """What a record says of a model of the same or of a related class.

    Attributes:
        record: with the names of the model.
        stored: key in the model -> identifier in the file.
    """

    record: Record
    stored: Mapping[str, str]


def fitted(record: Record, plain: nn.Module) -> Fitted:
    """The record for a plain model.

    Raises:
        CheckpointMismatchError: the sites are in modules that the model has not.
    """
    modules = {name for name, _ in plain.named_modules()}
    foreign = sorted({site.module for plan in record.plans for site in plan.sites} - modules)
    if type(plain).__name__ == record.model:
        if not foreign:
            keys = all_specs(record.plans, record.config)
            return Fitted(record, {key: identifier(key) for key in keys})
    else:
        best = max((_moved(record, move, plain) for move in _moves(plain)), key=_sites)  # of several the first
        if _sites(best):
            return _fitted(record, best)
    raise CheckpointMismatchError(
        f"{RECORD} is of a {record.model}, and this {type(plain).__name__} has no modules {names_text(foreign)}: "
        "load the class that was saved, with the files that were saved together"
    )


def _moves(plain: Any) -> Iterator[Move]:
    yield Move()
    part = getattr(plain, "base_model_prefix", "")
    if part:
        yield Move(under=part)
        yield Move(inside=part)


def _moved(record: Record, move: Move, plain: nn.Module) -> list[Moved]:
    """The plans with the sites whose module, and a weight of whose branch, the model has."""
    modules = {name for name, _ in plain.named_modules()}
    weights = {name for name, _ in plain.named_parameters(remove_duplicate=False)}

    def is_there(site: Site) -> bool:
        moved = map(move.path, site.weights)
        return move.path(site.module) in modules and (not site.weights or any(weight in weights for weight in moved))

    return [moved_plan(plan, move, is_there) for plan in record.plans]


def _sites(moved: list[Moved]) -> int:
    return sum(len(each.plan.sites) for each in moved)


def _fitted(record: Record, moved: list[Moved]) -> Fitted:
    plans = tuple(each.plan for each in moved if each.plan.sites)
    former = {new: old for each in moved for new, old in each.former.items()}
    config = _config(record.config, plans)
    stored = {key: identifier(former[key]) for key in all_specs(plans, config)}
    return Fitted(replace(record, config=config, plans=plans), stored)


def _config(config: Config, plans: tuple[Plan, ...]) -> Config:
    """Globs were written for other names: what they have chosen is named in their place."""
    if not (config.include or config.exclude):
        return config
    keys = dict.fromkeys(site.key for plan in plans for site in plan.sites)
    return replace(config, include=tuple(map(glob.escape, keys)), exclude=())
