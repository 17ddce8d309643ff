"""What one node of a graph is to a plan: the answer to `--why NODE`."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from difflib import get_close_matches

from mhc_compile.errors import InvalidOptionError
from mhc_compile.passes.plan.data import Plan, Rejection, Segment, Site
from mhc_compile.wording import entry_text, shape_text, short_location

_CUTOFF = 0.5  # similarity above which another name is suggested


@dataclass(frozen=True)
class Role:
    """One part a node plays: a sentence, and names with values."""

    sentence: str
    facts: tuple[tuple[str, str], ...] = ()


def roles_of(plan: Plan, node: str) -> tuple[Role, ...]:
    """Every part that `node` plays in the plan; the most important first.

    Args:
        plan: the plan to search.
        node: the name of a node, the key of a site or a readout, or the module of an add that is left alone.

    Raises:
        InvalidOptionError: the plan mentions no such name.
    """
    roles = (*_as_site(plan, node), *_as_rejection(plan, node), *_in_segments(plan, node), *_in_branches(plan, node))
    if not roles:
        raise InvalidOptionError(_unknown(plan, node))
    return roles


def _as_site(plan: Plan, node: str) -> Iterator[Role]:
    for site in plan.sites:
        if node == site.key or node == site.add:
            yield Role(f"{node} is a residual add and becomes a hyper-connection.", _site_facts(plan, site))
        elif node in site.adds:
            yield Role(f"{node} is an inner add of the residual sum {site.add}.", _site_facts(plan, site))


def _as_rejection(plan: Plan, node: str) -> Iterator[Role]:
    for rejection in plan.rejected:
        if node == rejection.add:
            yield Role(f"{node} is left alone: {rejection.reason.value}.", _rejection_facts(rejection))
        elif node in rejection.adds:
            sentence = f"{node} is an inner add of {rejection.add}, which is left alone: {rejection.reason.value}."
            yield Role(sentence, _rejection_facts(rejection))
        elif node == rejection.module:
            sentence = f"{rejection.add} in module {node} is left alone: {rejection.reason.value}."
            yield Role(sentence, _rejection_facts(rejection))


def _in_segments(plan: Plan, node: str) -> Iterator[Role]:
    for segment in plan.segments:
        if node == segment.entry:
            yield Role(f"{node} is the entry of segment {segment.index}: its value {entry_text(plan)}.")
        if node in segment.lifts:
            what = "the sum that goes on" if plan.over_sources else "each of its streams"
            yield Role(f"{node} lies between sites of segment {segment.index} and is applied to {what}.")
        yield from _as_readout(segment, node)


def _as_readout(segment: Segment, node: str) -> Iterator[Role]:
    for readout in segment.readouts:
        if node in (readout.node, readout.key):
            users = ", ".join(readout.users)
            yield Role(f"the streams of segment {segment.index} are read out at {readout.node} for {users}.")
        elif node in readout.users:
            yield Role(f"{node} uses {readout.node}, where the streams of segment {segment.index} are read out.")


def _in_branches(plan: Plan, node: str) -> Iterator[Role]:
    for site in plan.sites:
        if node in site.branch_nodes:
            yield Role(f"{node} is part of the branch of site {site.key}, which stays as it is.")
        if node == site.base:
            yield Role(f"{node} is where the branch of site {site.key} leaves the residual path.")
        elif node == site.skip:
            yield Role(f"{node} is the skip of site {site.key}.")


def _site_facts(plan: Plan, site: Site) -> tuple[tuple[str, str], ...]:
    segment = next((str(s.index) for s in plan.segments if site.key in s.sites), "none")
    facts = {
        "site": site.key,
        "segment": segment,
        "kind": site.kind,
        "sum": " + ".join((site.skip, *site.branches)),
        "subtracted": ", ".join(site.negated),
        "adds": ", ".join(site.adds),
        "skip": site.skip,
        "base": site.base,
        "branch": f"{site.branch_summary} ({len(site.branch_nodes)} nodes)",
        "weights": ", ".join(site.weights),
        "shape": f"{shape_text(site.shape)} {site.dtype}",
        "channels": f"{site.channels} (axis {site.channel_axis})",
        "new parameters": f"{site.parameters:,}",
        "source": short_location(site.location),
    }
    return _known(facts)


def _rejection_facts(rejection: Rejection) -> tuple[tuple[str, str], ...]:
    facts = {
        "reason": rejection.reason.name,
        "detail": rejection.detail,
        "adds": ", ".join(rejection.adds),
        "shape": shape_text(rejection.shape),
        "module": rejection.module,
        "source": short_location(rejection.location),
    }
    return _known(facts)


def _known(facts: dict[str, str]) -> tuple[tuple[str, str], ...]:
    return tuple((name, value) for name, value in facts.items() if value)


def _unknown(plan: Plan, node: str) -> str:
    near = get_close_matches(node, sorted(_names(plan)), n=4, cutoff=_CUTOFF)
    hint = f"did you mean {' or '.join(near)}?" if near else "write a site key or a node name from the report (--all)."
    return f"{node!r} is no site key, and no node of a residual sum, its branch, or a float add left alone: {hint}"


def _names(plan: Plan) -> set[str]:
    names: set[str] = set()
    for site in plan.sites:
        names |= {site.key, site.skip, site.base, *site.adds, *site.branch_nodes}
    for rejection in plan.rejected:
        names |= {rejection.module, *rejection.adds}
    for segment in plan.segments:
        names |= {segment.entry, *segment.lifts}
        names |= {name for r in segment.readouts for name in (r.key, r.node, *r.users)}
    return names
