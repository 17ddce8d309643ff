"""What the operators of a branch show about the axis of its channels."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from enum import Enum, auto

from torch import fx

from mhc_compile.passes.detect.residuals import Candidate
from mhc_compile.passes.graph.ancestry import VECTOR, Ancestry
from mhc_compile.passes.graph.axes import (
    ADAPTIVE,
    CONVOLUTIONS,
    LINEAR_MAPS,
    PRODUCTS,
    RECURRENT,
    Axes,
    Axis,
    carry,
    keeps_axes,
    reduced_axes,
)
from mhc_compile.passes.graph.contractions import terms_of
from mhc_compile.passes.graph.op_kinds import Kind, canonical_name, leaf_module
from mhc_compile.passes.graph.values import flat_nodes, shape_of


class Evidence(Enum):
    """How an axis was shown."""

    CONVOLUTION = auto()  # one with windows contracts it, or makes it
    NORM = auto()  # a norm has one parameter for each of its positions
    SCALE = auto()  # so has a scale or shift, which is a norm's where a statistic runs over the same axis
    MAP = auto()  # a weight contracts it, or makes it
    STATISTIC = auto()  # a mean or the like runs over it, or over every other one
    SIZE = auto()  # no other axis can be meant


@dataclass(frozen=True)
class Vote:
    """One operator that shows one axis, an axis of the add."""

    axis: int
    evidence: Evidence
    name: str


_BATCH_FIRST = frozenset({"batch_norm", "group_norm", "instance_norm", "native_group_norm", "local_response_norm",
                          "BatchNorm1d", "BatchNorm2d", "BatchNorm3d", "_native_batch_norm_legit_no_training",
                          "InstanceNorm1d", "InstanceNorm2d", "InstanceNorm3d", "LocalResponseNorm"})  # fmt: skip
"""Norms over the second axis."""


def votes_of(graph: Ancestry, candidate: Candidate, at_add: Axes) -> list[Vote]:
    """What every operator of the branch shows; `at_add` says for each axis of the add which one of the base it is."""
    base = candidate.skip.base
    known: dict[int, Axes] = {base: tuple(range(len(shape_of(graph.nodes[base]))))}
    votes: list[Vote] = []
    for i in sorted(candidate.branch_nodes):
        if not any(j in known for j in graph.inputs[i]):
            continue
        for axis, evidence in _shown(graph, i, known):
            if isinstance(axis, int) and axis in at_add:
                votes.append(Vote(at_add.index(axis), evidence, graph.names[i]))
        known[i] = carry(graph, i, known)
    for branch in candidate.branches:
        made = known.get(branch.node, ())
        votes += [Vote(axis, Evidence.MAP, name) for axis, name in enumerate(made) if isinstance(name, str)]
    return votes


def _shown(graph: Ancestry, i: int, known: Mapping[int, Axes]) -> Iterator[tuple[Axis, Evidence]]:
    node, name = graph.nodes[i], canonical_name(graph.nodes[i])
    axes = next(known[j] for j in graph.inputs[i] if j in known)
    if name in _BATCH_FIRST and len(axes) > 1:
        yield axes[1], Evidence.NORM
    elif (graph.kinds[i] is Kind.NORM_LAST or name == "native_layer_norm") and _normalised(node) == 1 and axes:
        yield axes[-1], Evidence.NORM
    elif name in CONVOLUTIONS and len(axes) > CONVOLUTIONS[name]:
        yield axes[-1 - CONVOLUTIONS[name]], Evidence.CONVOLUTION if _has_windows(graph, node) else Evidence.MAP
    elif name == "convolution" and len(axes) > 1:
        yield axes[1], Evidence.MAP
    elif (name in LINEAR_MAPS or name in RECURRENT or name == "multi_head_attention_forward") and axes:
        yield axes[-1], Evidence.MAP
    elif graph.weights[i] and name in PRODUCTS:
        yield from ((axis, Evidence.MAP) for axis in _multiplied(graph, node, known))
    elif graph.weights[i] and name in ("einsum", "tensordot"):
        yield from ((axis, Evidence.MAP) for axis in _summed(graph, node, known))
    elif graph.met[i] & VECTOR and graph.kinds[i] in (Kind.SCALE, Kind.ADD, Kind.SUB):
        yield from ((axis, Evidence.SCALE) for axis in _scaled(graph, i, axes))
    elif graph.kinds[i] is Kind.REDUCE or name in ADAPTIVE:
        yield from ((axis, Evidence.STATISTIC) for axis in _gathered(node, axes))


def _has_windows(graph: Ancestry, node: fx.Node) -> bool:
    """Whether a convolution sees neighbours: with a kernel of size 1 it is a linear layer, of tokens or of channels."""
    if node.op == "call_module":
        return any(size > 1 for size in leaf_module(node).kernel_size)  # type: ignore[union-attr]
    kernels = [shape_of(n)[2:] for n in node.all_input_nodes if not graph.from_input[graph.index[n]]]
    return any(size != 1 for kernel in kernels for size in kernel)


def _normalised(node: fx.Node) -> int:
    """Over how many axes a layer norm or RMS norm runs."""
    if node.op == "call_module":
        return len(leaf_module(node).normalized_shape)  # type: ignore[arg-type]
    shape = node.kwargs.get("normalized_shape", node.args[1] if len(node.args) > 1 else ())
    return len(shape) if isinstance(shape, (tuple, list)) else 1


def _multiplied(graph: Ancestry, node: fx.Node, known: Mapping[int, Axes]) -> Iterator[Axis]:
    """The contracted axis: the last one of a left operand, the one before of a right operand."""
    start = PRODUCTS[canonical_name(node)]
    for position, operand in enumerate(flat_nodes(tuple(node.args[start : start + 2]))):
        axes = known.get(graph.index[operand], ())
        if len(axes) > position:
            yield axes[-1 - position]


def _summed(graph: Ancestry, node: fx.Node, known: Mapping[int, Axes]) -> Iterator[Axis]:
    """The axes that an einsum sums over together with a weight, if it is one: heads and their channels are two."""
    letters, result, operands = terms_of(node) or ([], "", [])
    for term, operand in zip(letters, operands, strict=False):
        axes = known.get(graph.index[operand], ()) if isinstance(operand, fx.Node) else ()
        others = {letter for other in letters if other is not term for letter in other}
        shared = [a for letter, a in zip(term, axes, strict=False) if letter not in result and letter in others]
        yield from shared if len(shared) == 1 else []


def _scaled(graph: Ancestry, i: int, axes: Axes) -> Iterator[Axis]:
    """The axis along which a learnable scale or shift differs, if it is a single one."""
    for operand in graph.nodes[i].all_input_nodes:
        shape = shape_of(operand)
        along = [k - len(shape) for k, size in enumerate(shape) if size != 1]
        if not graph.from_input[graph.index[operand]] and len(along) == 1 and len(axes) >= -along[0]:
            yield axes[along[0]]


def _pooled(node: fx.Node, axes: Axes) -> tuple[int, ...]:
    """The axes that a pooling to one value runs over."""
    behind = range(len(axes) - ADAPTIVE[canonical_name(node)], len(axes))
    return tuple(behind) if all(shape_of(node)[k] == 1 for k in behind) else ()


def _gathered(node: fx.Node, axes: Axes) -> Sequence[Axis]:
    """The axis a statistic runs over if it keeps it, as a norm does; or the one that a pooling leaves."""
    gone = _pooled(node, axes) if canonical_name(node) in ADAPTIVE else reduced_axes(node)
    if not gone:
        return ()
    if len(gone) == 1 and keeps_axes(node):
        return (axes[gone[0]],)
    left = [axis for k, axis in enumerate(axes) if k > 0 and k not in gone]
    return left if len(left) == 1 else ()
