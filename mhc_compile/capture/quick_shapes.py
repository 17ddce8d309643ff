"""What frequent operators give for contiguous values of open sizes, said directly.

PyTorch derives it by running their formulas on fake tensors, a quarter of the time of a capture. What is not as plain
as the rules below goes that way still.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from typing import Any

import torch
from torch import Tensor

from mhc_compile import _torch_compat as compat

Rule = Callable[..., Any]
"""The result for a fake mode and the arguments of an operator; None where the rule says nothing."""

_EXACT = (torch.float32, torch.float64)
"""Dtypes whose statistics have the same dtype on every device."""


@contextmanager
def quick_shapes() -> Iterator[None]:
    """Fake tensors of open sizes follow the rules in the block; one thread at a time."""
    table = compat.fast_op_impls()
    added = {op: _ruled(rule, plain) for op, rule in _rules().items() if op not in table and (plain := _plain(op))}
    table.update(added)
    try:
        yield
    finally:
        for op in added:
            del table[op]


def _rules() -> dict[Any, Rule]:
    aten = torch.ops.aten
    return {
        aten.native_layer_norm.default: _layer_norm,
        aten.addmm.default: _addmm,
        aten.view.default: _view,
        aten.relu.default: _elementwise,
        aten.gelu.default: _elementwise,
    }


def _plain(op: Any) -> Rule | None:
    """How PyTorch derives the result of an operator."""
    known = compat.op_implementations.get(op)
    if known is not None:
        return lambda mode, *args, **kwargs: known(mode, op, *args, **kwargs)
    formula = compat.decomposition_table.get(op)
    if formula is None:
        return None

    def run(mode: Any, *args: Any, **kwargs: Any) -> Any:
        with mode:
            return formula(*args, **kwargs)

    return run


def _ruled(rule: Rule, plain: Rule) -> Rule:
    def result(mode: Any, *args: Any, **kwargs: Any) -> Any:
        found = rule(mode, *args, **kwargs)
        return plain(mode, *args, **kwargs) if found is None else found

    return result


def _same(one: Any, other: Any) -> bool:
    """Whether two sizes are one number whatever the open sizes are, without asking for a guard."""
    if isinstance(one, int) or isinstance(other, int):
        return type(one) is type(other) and bool(one == other)
    return bool(one.node.expr == other.node.expr)


def _is_plain(*tensors: Tensor | None) -> bool:
    """Whether values are contiguous, floating point, of one dtype and on one device."""
    given = [tensor for tensor in tensors if tensor is not None]
    kinds = {(tensor.dtype, tensor.device) for tensor in given}
    return len(kinds) == 1 and given[0].is_floating_point() and all(map(_is_contiguous, given))


def _is_contiguous(value: Tensor) -> bool:
    if value.layout is not torch.strided:
        return False
    step: Any = 1
    for size, stride in zip(reversed(value.shape), reversed(value.stride()), strict=True):
        if not _same(stride, step):
            return False
        step = size * step
    return True


def _new(mode: Any, like: Tensor, shape: Sequence[Any]) -> Tensor:
    made: Tensor = compat.FakeTensor(mode, torch.empty(shape, dtype=like.dtype, device="meta"), device=like.device)
    return made


def _layer_norm(
    mode: Any, x: Tensor, shape: Sequence[Any], weight: Tensor | None, bias: Tensor | None, eps: float
) -> Any:
    outer = x.shape[: x.dim() - len(shape)]
    sizes = [x.shape[len(outer) :], *(p.shape for p in (weight, bias) if p is not None)]
    if not _is_plain(x, weight, bias) or x.dtype not in _EXACT or not all(_all_same(size, shape) for size in sizes):
        return None
    statistics = [*outer, *[1] * len(shape)]
    return _new(mode, x, x.shape), _new(mode, x, statistics), _new(mode, x, statistics)


def _all_same(sizes: Sequence[Any], others: Sequence[Any]) -> bool:
    return len(sizes) == len(others) and all(map(_same, sizes, others))


def _addmm(mode: Any, bias: Tensor, a: Tensor, b: Tensor, **scales: Any) -> Any:
    """The second factor is mostly a transposed weight, and its strides do not matter."""
    if scales or a.dim() != 2 or b.dim() != 2 or not _is_plain(bias, a) or (b.dtype, b.device) != (a.dtype, a.device):
        return None
    if not _same(a.shape[1], b.shape[0]) or not _all_same(bias.shape, b.shape[1:]):
        return None
    return _new(mode, a, (a.shape[0], b.shape[1]))


def _elementwise(mode: Any, x: Tensor, **_: Any) -> Any:
    return _new(mode, x, x.shape) if _is_plain(x) else None


def _view(mode: Any, x: Tensor, shape: Sequence[Any]) -> Any:
    """Of contiguous values, with every size given; sizes of 0 and of -1 are left to PyTorch."""
    if any(isinstance(size, int) and size < 1 for size in shape) or not _is_contiguous(x):
        return None
    if not _same(math.prod(shape), math.prod(x.shape)):
        return None
    with compat.no_python_dispatcher(), compat.in_kernel_invocation(mode):
        try:
            seen = torch.ops.aten.view.default(x, shape)
        except RuntimeError:  # before PyTorch 2.14, this kernel knows no open sizes
            return None
    return compat.FakeTensor(mode, seen, x.device)
