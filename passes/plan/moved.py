"""The plan of a part of a model, or of a model around it: the same sites under other names."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass, replace

from mhc_compile.passes.plan.data import Plan, Readout, Segment, Site
from mhc_compile.passes.plan.keys import ROOT_KEY
from mhc_compile.passes.plan.steps import Step

_READOUT = ".readout"


@dataclass(frozen=True)
class Move:
    """From names in one model to those in another.

    Attributes:
        inside: path of the part that the other model is, "" for all of the one.
        under: path of the one in the other, "" where they begin alike.
    """

    inside: str = ""
    under: str = ""

    def path(self, name: str) -> str | None:
        """A module or a weight in the other model; None if it lies outside."""
        if name != self.inside and self.inside and not name.startswith(f"{self.inside}."):
            return None
        rest = name[len(self.inside) :].lstrip(".")
        return ".".join(filter(None, (self.under, rest)))

    def key(self, key: str) -> str | None:
        """The key of a site in the other model, with its number if it has one; None if it lies outside."""
        stem, hash_, number = key.partition("#")
        path = self.path("" if stem == ROOT_KEY else stem)
        return None if path is None else f"{path or ROOT_KEY}{hash_}{number}"

    def readout(self, key: str) -> str:
        """The key of a readout, which is named after its site. One outside keeps its name."""
        site, readout, number = key.rpartition(_READOUT)
        return f"{self.key(site) or site}{readout}{number}"


@dataclass(frozen=True)
class Moved:
    """A plan with other names.

    Attributes:
        plan: with the sites that are in the other model.
        former: key of a site or of a readout -> the key that it had.
    """

    plan: Plan
    former: Mapping[str, str]


def moved_plan(plan: Plan, move: Move, kept: Callable[[Site], bool]) -> Moved:
    """The plan with other names, with those sites of it that are kept."""
    keys = {site.key: key for site in plan.sites if kept(site) and (key := move.key(site.key)) is not None}
    segments = tuple(_segments(plan, move, keys))
    moved = replace(
        plan,
        sites=tuple(_site(site, move, keys) for site in plan.sites if site.key in keys),
        rejected=tuple(replace(entry, module=move.path(entry.module) or "") for entry in plan.rejected),
        segments=segments,
        steps=tuple(_steps(plan, keys)),
    )
    readouts = {move.readout(r.key): r.key for segment in plan.segments for r in segment.readouts}
    return Moved(moved, {**readouts, **{new: old for old, new in keys.items()}})


def _site(site: Site, move: Move, keys: Mapping[str, str]) -> Site:
    return replace(
        site,
        key=keys[site.key],
        weights=tuple(weight for weight in map(move.path, site.weights) if weight),
        module=move.path(site.module) or "",
        told_by=(move.path(site.told_by) or "") if site.told_by else "",
        former=(move.key(site.former) or "") if site.former else "",
        before=keys.get(site.before, ""),
    )


def _segments(plan: Plan, move: Move, keys: Mapping[str, str]) -> Iterator[Segment]:
    for segment in plan.segments:
        sites = tuple(keys[key] for key in segment.sites if key in keys)
        if sites:
            yield replace(segment, sites=sites, readouts=tuple(_readout(readout, move) for readout in segment.readouts))


def _readout(readout: Readout, move: Move) -> Readout:
    former = move.readout(readout.former) if readout.former else ""
    return replace(readout, key=move.readout(readout.key), former=former)


def _steps(plan: Plan, keys: Mapping[str, str]) -> Iterator[Step]:
    for step in plan.steps:
        if all(key in keys for key in (step.writes, step.gates) if key):
            yield replace(step, writes=keys.get(step.writes, ""), gates=keys.get(step.gates, ""))
