"""Which axis of a site holds the channels: the one its branch normalises or contracts first."""

from __future__ import annotations

from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from torch import nn

from mhc_compile.passes.ancestry import Ancestry
from mhc_compile.passes.op_kinds import Kind, canonical_name, leaf_module
from mhc_compile.passes.plan import Reason
from mhc_compile.passes.residuals import Candidate, Rejected
from mhc_compile.passes.values import shape_of

Axes = tuple[int | None, ...]
"""For each axis of a value, the axis of the stream it came from, None where that is lost."""

_LAST = frozenset(
    {"layer_norm", "rms_norm", "linear", "Linear", "matmul", "mm", "addmm", "LayerNorm", "mean", "var", "einsum"}
)
_SECOND = frozenset({"conv1d", "conv2d", "conv3d", "convolution", "Conv1d", "Conv2d", "Conv3d",
                     "batch_norm", "group_norm", "instance_norm", "native_group_norm",
                     "BatchNorm1d", "BatchNorm2d", "BatchNorm3d", "_native_batch_norm_legit_no_training"})  # fmt: skip


def channel_axes(graph: Ancestry, candidates: Sequence[Candidate]) -> dict[int, int | None]:
    """The channel axis of each candidate by the position of its add, None where no axis of fixed size is left.

    Sites of equal shape take the axis that most of them show, so that one odd branch (token mixing) follows the rest.
    """
    shown = {c.add: _shown_axis(graph, c) for c in candidates}
    votes: dict[tuple[object, ...], Counter[int]] = {}
    for add, axis in shown.items():
        if axis is not None:
            votes.setdefault(shape_of(graph.nodes[add])[1:], Counter())[axis] += 1
    return {c.add: _settle(graph, c, votes) for c in candidates}


def _settle(graph: Ancestry, candidate: Candidate, votes: Mapping[tuple[object, ...], Counter[int]]) -> int | None:
    shape = shape_of(graph.nodes[candidate.add])
    ranked = [axis for axis, _ in votes.get(shape[1:], Counter()).most_common()]
    convolved = any(canonical_name(graph.nodes[i]) in _SECOND for i in candidate.branch_nodes)
    fallbacks = [*range(1, len(shape))] if convolved else [*range(len(shape) - 1, 0, -1)]
    return next((a for a in (*ranked, *fallbacks) if isinstance(shape[a], int)), None) if shape else None


def _shown_axis(graph: Ancestry, candidate: Candidate) -> int | None:
    """Follow the branch from its base until an op shows where its channels are."""
    base = candidate.skip.base
    rank = len(shape_of(graph.nodes[base]))
    axes: dict[int, Axes] = {base: tuple(range(rank))}
    for i in sorted(candidate.branch_nodes):
        source = next((j for j in graph.inputs[i] if j in axes), None)
        if source is None:
            continue
        shown = _channels_of(graph, i, axes[source])
        if shown is not None:
            return _at_add(graph, candidate, shown)
        axes[i] = _carry(graph, source, i, axes[source])
    return None


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
    axes = channel_axes(graph, candidates)
    return {c.add: _channels(graph, c, axes[c.add]) for c in candidates}


def _channels(graph: Ancestry, candidate: Candidate, axis: int | None) -> Channels | Rejected:
    adds = candidate.total.adds
    if axis is None:
        return _from_weights(graph, candidate) or Rejected(adds, Reason.UNKNOWN_CHANNELS)
    at_base = base_axis(graph, candidate, axis)
    if at_base is None:
        return Rejected(adds, Reason.RESHAPED_SKIP, "a view breaks up the channels")
    count = shape_of(graph.nodes[candidate.add])[axis]
    assert isinstance(count, int)
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
    return axes[axis] if axis < len(axes) else None


def _at_add(graph: Ancestry, candidate: Candidate, axis: int) -> int:
    axes = _axes_at_add(graph, candidate)
    return axes.index(axis) if axis in axes else len(axes) - 1


def _axes_at_add(graph: Ancestry, candidate: Candidate) -> Axes:
    """For each axis of the add, the axis of the base: lifted ops in between may have moved it."""
    here = candidate.skip.base
    axes: Axes = tuple(range(len(shape_of(graph.nodes[here]))))
    for lifted in candidate.skip.lifts:
        axes = _carry(graph, here, lifted, axes)
        here = lifted
    return axes


def axis_behind(graph: Ancestry, site: int, axis: int, i: int) -> int:
    """Where the channel axis of the site at position `site` is in a value that was lifted from it; `axis` if lost."""
    axes: dict[int, Axes] = {site: tuple(range(len(shape_of(graph.nodes[site]))))}
    for j in sorted(graph.between(site, [i])):
        source = next((k for k in graph.inputs[j] if k in axes), None)
        if source is not None:
            axes[j] = _carry(graph, source, j, axes[source])
    found = axes.get(i, ())
    return found.index(axis) if axis in found else axis


def axis_of_size(graph: Ancestry, i: int, axis: int, channels: int) -> tuple[int, int]:
    """Axis and number of the channels of a value computed from a site with `channels` channels on `axis`."""
    shape = shape_of(graph.nodes[i])
    if not shape or (axis < len(shape) and shape[axis] == channels):
        return axis, channels
    fixed = [(a, size) for a, size in enumerate(shape) if isinstance(size, int) and a > 0]
    return max((pair for pair in fixed if pair[1] == channels), default=fixed[-1])


def _channels_of(graph: Ancestry, i: int, axes: Axes) -> int | None:
    name = canonical_name(graph.nodes[i])
    if name in _LAST and axes:
        return axes[-1]
    if name in _SECOND and len(axes) > 1:
        return axes[1]
    return None


def _carry(graph: Ancestry, source: int, result: int, axes: Axes) -> Axes:
    """Where the axes of `source` are in `result`."""
    before, after = shape_of(graph.nodes[source]), shape_of(graph.nodes[result])
    if not after or not before:  # several values at once (split, chunk), or unknown
        return axes if len(after) in (0, len(axes)) else (None,) * len(after)
    if graph.kinds[result] is not Kind.SHAPE:
        return axes if len(before) == len(after) else (None,) * len(after)
    order = _permutation(graph, result, len(before))
    if order is not None:
        return tuple(axes[a] for a in order)
    return _through_view(before, after, axes)


def _permutation(graph: Ancestry, i: int, rank: int) -> list[int] | None:
    """For each axis of a permuted value, the axis it was; None for a view, which only sizes tell something about."""
    node = graph.nodes[i]
    name, keywords = canonical_name(node), ("dim0", "dim1", "axis0", "axis1", "dims", "source", "destination")
    given: list[Any] = [*node.args[1:], *(node.kwargs[k] for k in keywords if k in node.kwargs)]
    order = list(range(rank))
    if name in ("t", "mT"):
        return [*order[:-2], *reversed(order[-2:])]
    if name in ("transpose", "swapaxes", "swapdims"):
        first, second = _axes_of(given, rank)
        order[first], order[second] = second, first
        return order
    if name == "permute":
        return _axes_of(given[0] if isinstance(given[0], (tuple, list)) else given, rank)
    if name in ("movedim", "moveaxis"):
        source, destination = (_axes_of(axes if isinstance(axes, (tuple, list)) else [axes], rank) for axes in given)
        moved, rest = dict(zip(destination, source, strict=True)), iter(a for a in order if a not in source)
        return [moved[a] if a in moved else next(rest) for a in order]
    return None


def _axes_of(axes: Sequence[Any], rank: int) -> list[int]:
    return [int(a) % rank for a in axes]


def _through_view(before: tuple[object, ...], after: tuple[object, ...], axes: Axes) -> Axes:
    """A view keeps the axes it leaves alone at either end."""
    result: list[int | None] = [None] * len(after)
    for i in range(min(len(before), len(after))):
        if before[i] != after[i]:
            break
        result[i] = axes[i]
    for i in range(1, min(len(before), len(after)) + 1):
        if before[-i] != after[-i]:
            break
        result[-i] = axes[-i]
    return tuple(result)
