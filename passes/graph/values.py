"""What is known of a node's value without running anything: shape, dtype, location, module."""

from __future__ import annotations

import re
from collections.abc import Sequence
from typing import Any

import torch
from torch import fx

from mhc_compile.passes.plan.data import Dim

STREAMS_OF = "mhc_streams_of"
"""Key of a node's meta that holds, for streams `[n, *x.shape]`, the fake value of the `x` they stand for."""

STAGE = "mhc_stage"
"""Key of a node's meta that holds its pipeline stage, None for a node that every stage computes where it needs it."""

_FRAME = re.compile(r'File "([^"]+)", line (\d+)')
_LIBRARY = re.compile(r"/torch/(nn|_|fx|utils|functional)|^<eval_with_key>")


def value_of(node: fx.Node) -> Any:
    """The fake value Dynamo (`example_value`) or export (`val`) left on the node, or None."""
    return node.meta.get("val", node.meta.get("example_value"))


def tensor_of(node: fx.Node) -> torch.Tensor | None:
    """The fake tensor of the node, None if it is no tensor or unknown."""
    value = value_of(node)
    return value if isinstance(value, torch.Tensor) else None


def example_of(node: fx.Node) -> torch.Tensor | None:
    """The fake tensor of the node, for streams that of a single one; None if it is no tensor or unknown."""
    single = node.meta.get(STREAMS_OF)
    return single if isinstance(single, torch.Tensor) else tensor_of(node)


def carries_data(node: fx.Node) -> bool:
    """Whether gradients can flow through the value: a floating tensor, a container of tensors, or unknown."""
    value = value_of(node)
    if isinstance(value, torch.Tensor):
        return value.is_floating_point() or value.is_complex()
    if isinstance(value, (tuple, list)):
        return any(isinstance(v, torch.Tensor) for v in value)
    return value is None


def rank_of(node: fx.Node) -> int | None:
    """Number of axes, None if unknown."""
    tensor = tensor_of(node)
    return None if tensor is None else tensor.dim()


def shape_of(node: fx.Node) -> tuple[Dim, ...]:
    """The shape with symbolic sizes as text; () if unknown."""
    tensor = tensor_of(node)
    return () if tensor is None else tuple(d if isinstance(d, int) else str(d) for d in tensor.shape)


def traced_sizes(node: fx.Node) -> tuple[int, ...]:
    """The sizes it was traced with, those of open axes included; () if one is unknown."""
    tensor = tensor_of(node)
    sizes = () if tensor is None else tuple(_hint(d) for d in tensor.shape)
    return sizes if all(isinstance(size, int) for size in sizes) else ()


def _hint(size: Any) -> Any:
    return getattr(getattr(size, "node", None), "hint", size)


def dtype_of(node: fx.Node) -> torch.dtype | None:
    """The dtype, None if unknown."""
    tensor = tensor_of(node)
    return None if tensor is None else tensor.dtype


def same_shape(a: fx.Node, b: fx.Node) -> bool:
    """Whether two tensors have provably equal shapes; True where a shape is unknown."""
    left, right = tensor_of(a), tensor_of(b)
    if left is None or right is None:
        return True
    return left.dim() == right.dim() and all(map(_same_dim, left.shape, right.shape))


def _same_dim(a: Any, b: Any) -> bool:
    if isinstance(a, int) and isinstance(b, int):
        return a == b
    from torch.fx.experimental.symbolic_shapes import statically_known_true  # with sympy, a third of a second

    if statically_known_true(a == b):
        return True
    # Two expressions that the solver cannot equate, such as (s0 // 4) * 4 after padding: the traced sizes decide,
    # because a pair of unequal sizes above 1 could not have been added at all.
    hints = [_hint(d) for d in (a, b)]
    return hints[0] is not None and hints[0] == hints[1]


def attribute(gm: torch.nn.Module, target: str) -> Any:
    """The object behind a `get_attr` target, or None."""
    value: Any = gm
    for part in target.split("."):
        value = getattr(value, part, None)
        if value is None:
            return None
    return value


def location_of(node: fx.Node) -> str:
    """`file:line` of the innermost frame outside torch itself and code it generated, "" if unknown."""
    frames = _FRAME.findall(node.meta.get("stack_trace") or "")
    own = [f for f in frames if not _LIBRARY.search(f[0])]
    return f"{own[-1][0]}:{own[-1][1]}" if own else ""


def module_path_of(node: fx.Node) -> str:
    """Dotted path of the module whose forward made the node, "" if unknown."""
    stack = node.meta.get("nn_module_stack")
    if not stack:
        return ""
    path = str(list(stack.values())[-1][0])
    path = re.sub(r"\[['\"]?([^'\"\]]+)['\"]?\]", r".\1", path.replace("L['self']", "").replace("L['fn']", ""))
    return path.strip(".")


def flat_nodes(args: Any) -> Sequence[fx.Node]:
    """Every node inside an argument structure, in order, repeats included."""
    found: list[fx.Node] = []

    def note(node: fx.Node) -> fx.Node:
        found.append(node)
        return node

    fx.map_arg(args, note)
    return found
