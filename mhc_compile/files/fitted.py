"""A record for a class that is related to the one that was saved.

The library loads a model with a head, the model alone, and a part such as the encoder, each from a folder of another.
Its classes call the part that several of them share by one name, `base_model_prefix`.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from dataclasses import dataclass, replace
from typing import Any

from torch import nn

from mhc_compile.errors import CheckpointMismatchError
from mhc_compile.files.record import RECORD, Record
from mhc_compile.passes.plan.data import Site
from mhc_compile.passes.plan.keys import identifier
from mhc_compile.passes.plan.moved import Move, moved_plan
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
    there = {name for name, _ in plain.named_modules()}
    sites = [site for plan in record.plans for site in plan.sites]
    foreign = sorted({site.module for site in sites} - there)
    if not foreign:
        keys = all_specs(record.plans, record.config)
        return Fitted(record, {key: identifier(key) for key in keys})
    related = type(plain).__name__ != record.model
    for move in _moves(plain) if related else ():
        fit = _moved(record, move, there)
        if fit is not None:
            return fit
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


def _moved(record: Record, move: Move, there: set[str]) -> Fitted | None:
    """The record with the sites that lie in modules that are there; None if none does."""

    def kept(site: Site) -> bool:
        return move.path(site.module) in there

    plans = tuple(moved_plan(plan, move, kept) for plan in record.plans)
    plans = tuple(plan for plan in plans if plan.sites)
    if not plans:
        return None
    stored = {move.key(key): identifier(key) for key in all_specs(record.plans, record.config)}
    return Fitted(replace(record, plans=plans), {key: stored[key] for key in all_specs(plans, record.config)})
