"""Which axis of a site holds the channels: every operator of the branch that shows it has a vote.

A norm names the axis by its parameters, a linear layer, a convolution or a product with a weight by what it contracts
and what it makes. Token mixers contract tokens, so a branch may disagree with itself: then the sites of its chain
decide, then those of equal shape that are of one mind, then its own convolutions with windows, then its norms, and at
last those that were decided. What stays undecided is no site, for its parameters would be bound to a guess.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Collection, Mapping, Sequence
from dataclasses import dataclass, replace
from typing import TypeAlias

from torch import nn

from mhc_compile.passes.detect.evidence import Evidence, Vote, votes_of
from mhc_compile.passes.detect.links import find_links
from mhc_compile.passes.detect.residuals import Candidate, Rejected
from mhc_compile.passes.graph.ancestry import Ancestry
from mhc_compile.passes.graph.axes import Axes, carry
from mhc_compile.passes.graph.op_kinds import Kind, leaf_module
from mhc_compile.passes.graph.values import shape_of, traced_sizes
from mhc_compile.passes.plan.reasons import Reason

Group: TypeAlias = tuple[object, ...]
"""Of sites that are alike: a shape, or a chain with one."""


@dataclass(frozen=True)
class Channels:
    """Where the channels of a site are and how many: on `axis` of the add, on `base_axis` of the base.

    Where no shape is known (a trace without inputs), the axes follow from the kind of the last weight: -1 or 1.
    """

    axis: int
    base_axis: int
    count: int


def find_channels(graph: Ancestry, candidates: Sequence[Candidate]) -> dict[int, Channels | Rejected]:
    """The channels of each candidate by the position of its add, or why it has none of fixed number."""
    ballots = {c.add: _ballot(graph, c) for c in candidates}
    kinds = _kinds(graph, candidates)
    sure = {add: votes[0].axis for add, votes in ballots.items() if len({vote.axis for vote in votes}) == 1}
    groups = _by_kind(sure, kinds)
    settled = {add: _settle(votes, [groups.get(k) for k in kinds[add]]) for add, votes in ballots.items()}
    groups = _by_kind({add: axis for add, axis in settled.items() if isinstance(axis, int)}, kinds)
    for add in [add for add, axis in settled.items() if isinstance(axis, str)]:  # as its neighbours
        near = (_most(groups.get(kind, Counter())) for kind in kinds[add])
        settled[add] = next((axis for axis in near if axis is not None), settled[add])
    return {c.add: _channels(graph, c, settled[c.add]) for c in candidates}


def _kinds(graph: Ancestry, candidates: Sequence[Candidate]) -> dict[int, list[Group]]:
    """Of the stream at each add: the chain of its site, then all of its shape."""
    links = find_links(graph, candidates)
    root: dict[int, int] = {}  # first add of the chain of each
    for add in sorted(c.add for c in candidates):
        root[add] = root[links[add].source] if add in links else add
    shapes = {add: shape_of(graph.nodes[add])[1:] for add in root}
    return {add: [(first, shapes[add]), shapes[add]] for add, first in root.items()}


def _by_kind(axes: Mapping[int, int], kinds: Mapping[int, list[Group]]) -> dict[Group, Counter[int]]:
    groups: dict[Group, Counter[int]] = {}
    for add, axis in axes.items():
        for kind in kinds[add]:
            groups.setdefault(kind, Counter())[axis] += 1
    return groups


def _ballot(graph: Ancestry, candidate: Candidate) -> list[Vote]:
    """What the branch shows, in axes of the add; only one of fixed size can hold channels."""
    shape = shape_of(graph.nodes[candidate.add])
    fixed = [axis for axis, size in enumerate(shape) if axis > 0 and isinstance(size, int)]
    found = votes_of(graph, candidate, _axes_at_add(graph, candidate))
    sure = [vote for vote in found if vote.axis in fixed]
    if any(vote.axis == 0 for vote in found) and not sure:
        return []  # the channels lie where batches do
    if not sure and len(fixed) == 1 and shape[fixed[0]] != 1:  # what is 1 there is mostly open elsewhere
        return [Vote(fixed[0], Evidence.SIZE, "every other size is open")]
    strong = [vote for vote in sure if vote.evidence is not Evidence.STATISTIC]
    runs_over = {vote.axis for vote in sure if vote.evidence is Evidence.STATISTIC}
    return [_norm_of(vote, runs_over) for vote in strong] or sure


def _norm_of(vote: Vote, runs_over: Collection[int]) -> Vote:
    """A scale along an axis that a statistic runs over is that of a norm which is written out."""
    is_norms = vote.evidence is Evidence.SCALE and vote.axis in runs_over
    return replace(vote, evidence=Evidence.NORM) if is_norms else vote


def _settle(votes: Sequence[Vote], around: Sequence[Counter[int] | None]) -> int | str:
    """The axis, or why there is none: what its chain shows, what it shows itself, what others of its shape show."""
    own, alike = (_most(Counter() if group is None else group) for group in around)
    shown = {vote.axis for vote in votes}
    found = own if own is not None else next(iter(shown)) if len(shown) == 1 else alike
    if found is not None:
        return found
    for evidence in (Evidence.CONVOLUTION, Evidence.NORM):
        told = {vote.axis for vote in votes if vote.evidence is evidence}
        if len(told) == 1:
            return told.pop()
    ranked = Counter(vote.axis for vote in votes).most_common()
    if not ranked:
        return "no operator of the branch shows it"
    if len(ranked) == 1 or ranked[0][1] > ranked[1][1]:
        return ranked[0][0]
    shows = {axis: next(vote.name for vote in votes if vote.axis == axis) for axis, _ in ranked}
    return " but ".join(f"{name} shows axis {axis}" for axis, name in shows.items())


def _most(axes: Counter[int]) -> int | None:
    """What more sites show than any other axis."""
    ranked = axes.most_common()
    return ranked[0][0] if ranked and (len(ranked) == 1 or ranked[0][1] > ranked[1][1]) else None


def _channels(graph: Ancestry, candidate: Candidate, axis: int | str) -> Channels | Rejected:
    adds = candidate.total.adds
    if isinstance(axis, str):
        return _from_weights(graph, candidate) or Rejected(adds, Reason.UNKNOWN_CHANNELS, axis)
    at_base = base_axis(graph, candidate, axis)
    if at_base is None:
        return Rejected(adds, Reason.RESHAPED_SKIP, "a view breaks up the channels")
    count = shape_of(graph.nodes[candidate.add])[axis]
    assert isinstance(count, int)
    base = graph.nodes[candidate.skip.base]
    size = (traced_sizes(base) or shape_of(base))[at_base]  # open there, fixed by the weights behind it
    if isinstance(size, int) and size != count:
        return Rejected(adds, Reason.RESHAPED_SKIP, "only some of the channels are left")
    return Channels(axis, at_base, count)


def _from_weights(graph: Ancestry, candidate: Candidate) -> Channels | None:
    """The width of the last module of the branch, when nothing but modules is known."""
    if shape_of(graph.nodes[candidate.add]) or any(graph.kinds[i] is Kind.SHAPE for i in candidate.skip.lifts):
        return None
    here = candidate.branches[0].node
    while len(graph.inputs[here]) == 1 and not graph.weights[here] and graph.kinds[here] is not Kind.SHAPE:
        here = graph.inputs[here][0]
    node = graph.nodes[here]
    module = leaf_module(node) if node.op == "call_module" else None
    if isinstance(module, nn.Linear):
        return Channels(-1, -1, module.out_features)
    if isinstance(module, (nn.Conv1d, nn.Conv2d, nn.Conv3d)):
        return Channels(1, 1, module.out_channels)
    return None


def base_axis(graph: Ancestry, candidate: Candidate, axis: int) -> int | None:
    """The channel axis at the base of a site, given the one at its add; None if a view between them breaks it up."""
    axes = _axes_at_add(graph, candidate)
    found = axes[axis] if axis < len(axes) else None
    return found if isinstance(found, int) else None


def _axes_at_add(graph: Ancestry, candidate: Candidate) -> Axes:
    """For each axis of the add, the axis of the base: lifted ops in between may have moved it."""
    here = candidate.skip.base
    axes: Axes = tuple(range(len(shape_of(graph.nodes[here]))))
    for lifted in candidate.skip.lifts:
        axes = carry(graph, lifted, {here: axes})
        here = lifted
    return axes


def axis_behind(graph: Ancestry, site: int, axis: int, i: int) -> int:
    """Where the channel axis of the site at position `site` is in a value that was lifted from it; `axis` if lost."""
    axes: dict[int, Axes] = {site: tuple(range(len(shape_of(graph.nodes[site]))))}
    for j in sorted(graph.between(site, [i])):
        known = {k: axes[k] for k in graph.inputs[j] if k in axes}
        if known:
            axes[j] = carry(graph, j, known)
    found = axes.get(i, ())
    return found.index(axis) if axis in found else axis


def axis_of_size(graph: Ancestry, i: int, axis: int, channels: int) -> tuple[int, int]:
    """Axis and number of the channels of a value computed from a site with `channels` channels on `axis`."""
    shape = shape_of(graph.nodes[i])
    if not shape or (axis < len(shape) and shape[axis] == channels):
        return axis, channels
    fixed = [(a, size) for a, size in enumerate(shape) if isinstance(size, int) and a > 0]
    return max((pair for pair in fixed if pair[1] == channels), default=fixed[-1])
