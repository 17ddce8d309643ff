"""Random operators on streams: drawn once, with the numbers the plain model draws, and applied to all of them.

Drawn for each stream, what one of them loses the others keep, and their mean undoes the dropout.
"""

from __future__ import annotations

import operator
from math import sqrt

import torch
from torch import fx

from mhc_compile.passes.graph.op_kinds import canonical_name, leaf_module
from mhc_compile.passes.lift.draws import takes_numbers
from mhc_compile.passes.lift.rules import Streams, operand_of

_SCALING = frozenset({"dropout", "dropout1d", "dropout2d", "dropout3d", "feature_dropout"})
_SELF_NORMALISING = frozenset({"alpha_dropout", "feature_alpha_dropout"})
_SELU_LIMIT = 1.7580993408473766  # what alpha dropout puts in place of a dropped value, negated: SELU's alpha * scale


def draws(node: fx.Node) -> bool:
    """Whether the op may draw random numbers that streams share."""
    return canonical_name(node) in _SCALING | _SELF_NORMALISING and takes_numbers(node)


def can_draw_once(node: fx.Node) -> bool:
    """Whether its draw can be told from its result: of alpha dropout, if the probability is known."""
    return canonical_name(node) in _SCALING or 0.0 <= _probability(node) < 1.0


def draw_once(node: fx.Node, streams: Streams) -> fx.Node:
    """Emit the draw on one tensor of ones, or of zeros, and apply what came out of it to every stream."""
    graph, source = node.graph, streams[operand_of(node)]
    one = graph.call_method("select", (source, 0, 0))
    if canonical_name(node) in _SCALING:
        drawn = _call(node, graph.call_function(torch.ones_like, (one,)))
        return graph.call_function(operator.mul, (source, drawn))
    shift = _call(node, graph.call_function(torch.zeros_like, (one,)))  # positive where kept, 0 in evaluation
    p = _probability(node)
    gain = 1 / sqrt((_SELU_LIMIT**2 * p + 1) * (1 - p))
    kept = graph.call_method("type_as", (graph.call_function(operator.gt, (shift, 0)), shift))
    untouched = graph.call_function(operator.eq, (shift, 0))
    scale = graph.call_function(operator.add, (graph.call_function(operator.mul, (kept, gain)), untouched))
    return graph.call_function(operator.add, (graph.call_function(operator.mul, (source, scale)), shift))


def _call(node: fx.Node, operand: fx.Node) -> fx.Node:
    kwargs = {k: v for k, v in node.kwargs.items() if k not in ("input", "inplace")}
    return node.graph.create_node(node.op, node.target, (operand, *node.args[1:]), kwargs)


def _probability(node: fx.Node) -> float:
    if node.op == "call_module":
        return float(leaf_module(node).p)  # type: ignore[arg-type]
    p = node.kwargs.get("p", node.args[1] if len(node.args) > 1 else 0.5)
    return float(p) if isinstance(p, (int, float)) else 1.0
