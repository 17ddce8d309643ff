"""Stream paths: which site follows which by operators that can be applied to every stream, and what is in the way."""

from __future__ import annotations

from collections.abc import Collection, Mapping, Sequence
from dataclasses import dataclass

from mhc_compile.passes.detect.residuals import Candidate
from mhc_compile.passes.detect.skips import full_size
from mhc_compile.passes.graph.ancestry import Ancestry
from mhc_compile.passes.graph.op_kinds import LIFTABLE
from mhc_compile.passes.lift.lifting import can_lift

_MAX_PATH = 64  # ops between two sites that are looked through


@dataclass(frozen=True)
class Link:
    """The stream path from the add at position `source` to the base of the next site, every op liftable."""

    source: int
    path: tuple[int, ...]


def find_link(graph: Ancestry, base: int, sites: Mapping[int, Candidate]) -> Link | None:
    """The link that brings streams from an earlier site to `base`, None if a segment has to start there."""
    for source in sorted(_sources(graph, base, sites), reverse=True):
        path = graph.between(source, [base]) if source != base else set()
        on_stream = path | {source}
        if all(i not in sites and can_lift(graph, i, on_stream) for i in path):
            return Link(source, tuple(sorted(path)))
    return None


def _sources(graph: Ancestry, base: int, sites: Mapping[int, Candidate]) -> set[int]:
    """Sites that `base` follows by liftable ops alone, through any operand that is large enough to be the stream."""
    found: set[int] = set()
    seen, todo = {base}, [base]
    for _ in range(_MAX_PATH):
        if not todo:
            break
        here = todo.pop()
        if here in sites:
            found.add(here)
        elif graph.kinds[here] in LIFTABLE:
            onward = [j for j in graph.inputs[here] if j not in seen and full_size(graph, here, j)]
            seen.update(onward)
            todo += onward
    return found


def behind_sites(graph: Ancestry, adds: Collection[int]) -> list[bool]:
    """For each node, whether one of these adds is above it."""
    flags: list[bool] = []
    for i in range(len(graph.nodes)):
        flags.append(i in adds or any(flags[j] for j in graph.inputs[i]))
    return flags


def find_obstacle(graph: Ancestry, base: int, behind: Sequence[bool]) -> int | None:
    """The op that keeps streams of an earlier site from `base`; None where there is no such site, or it is far."""
    seen, todo = {base}, [base]
    while todo and len(seen) <= _MAX_PATH:
        here = max(todo)  # the last op on the way is the first one that is in the way
        todo.remove(here)
        above = {j for j in graph.inputs[here] if behind[j]}
        if above and not can_lift(graph, here, above):
            return here
        todo += above - seen
        seen |= above
    return None


def find_links(graph: Ancestry, candidates: Sequence[Candidate]) -> dict[int, Link]:
    """The link into each candidate that has one, by the position of its add."""
    sites = {c.add: c for c in candidates}
    links = ((c.add, find_link(graph, c.skip.base, sites)) for c in candidates)
    return {add: link for add, link in links if link is not None}
