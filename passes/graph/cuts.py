"""What a convolution pads, and what an index cuts off again."""

from __future__ import annotations

from typing import Any

from torch import fx

from mhc_compile.passes.graph.axes import CONVOLUTIONS
from mhc_compile.passes.graph.op_kinds import canonical_name, leaf_module

_PADDING_AT = 4  # conv(input, weight, bias, stride, padding, ...)


def positions_cut(node: fx.Node) -> int:
    """How many positions an index such as `[..., :-2]` leaves out at the end; 0 for anything else."""
    if canonical_name(node) != "getitem":
        return 0
    index: Any = node.args[1] if isinstance(node.args[1], tuple) else (node.args[1],)
    stops = [part.stop for part in index if isinstance(part, slice)]
    return max((-stop for stop in stops if isinstance(stop, int) and stop < 0), default=0)


def padding_of(node: fx.Node) -> int:
    """The most positions that a convolution adds at either end of an axis, 0 for anything else."""
    name = canonical_name(node)
    if name not in CONVOLUTIONS or "transpose" in name.lower():
        return 0
    if node.op == "call_module":
        padding: Any = leaf_module(node).padding
    else:
        padding = node.kwargs.get("padding", node.args[_PADDING_AT] if len(node.args) > _PADDING_AT else 0)
    sizes = padding if isinstance(padding, (tuple, list)) else (padding,)
    return max((size for size in sizes if isinstance(size, int)), default=0)
