"""The plan of a part of a model, or of a model around it: the same sites under other names."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass, replace

from mhc_compile.passes.plan.data import Plan, Readout, Segment, Site
from mhc_compile.passes.plan.keys import ROOT_KEY
from mhc_compile.passes.plan.steps import Step


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
        """A key of a site or of a readout in the other model; None if it lies outside."""
        path = self.path("" if key == ROOT_KEY else key)
        return path if path is None else path or ROOT_KEY


def moved_plan(plan: Plan, move: Move, kept: Callable[[Site], bool]) -> Plan:
    """The plan with other names, with those sites of it that are kept."""
    keys = {site.key: key for site in plan.sites if kept(site) and (key := move.key(site.key)) is not None}
    return replace(
        plan,
        sites=tuple(_site(site, move, keys) for site in plan.sites if site.key in keys),
        rejected=tuple(replace(entry, module=move.path(entry.module) or "") for entry in plan.rejected),
        segments=tuple(_segments(plan, move, keys)),
        steps=tuple(_steps(plan, keys)),
    )


def _site(site: Site, move: Move, keys: Mapping[str, str]) -> Site:
    return replace(
        site,
        key=keys[site.key],
        weights=tuple(weight for weight in map(move.path, site.weights) if weight),
        module=move.path(site.module) or "",
        former=_key_or_none(move, site.former),
        before=keys.get(site.before, ""),
    )


def _segments(plan: Plan, move: Move, keys: Mapping[str, str]) -> Iterator[Segment]:
    for segment in plan.segments:
        sites = tuple(keys[key] for key in segment.sites if key in keys)
        if sites:
            yield replace(segment, sites=sites, readouts=tuple(_readout(readout, move) for readout in segment.readouts))


def _readout(readout: Readout, move: Move) -> Readout:
    return replace(readout, key=move.key(readout.key) or readout.key, former=_key_or_none(move, readout.former))


def _key_or_none(move: Move, key: str) -> str:
    """The key in the other model; "" stands for none."""
    return (move.key(key) or "") if key else ""


def _steps(plan: Plan, keys: Mapping[str, str]) -> Iterator[Step]:
    for step in plan.steps:
        if all(key in keys for key in (step.writes, step.gates) if key):
            yield replace(step, writes=keys.get(step.writes, ""), gates=keys.get(step.gates, ""))
