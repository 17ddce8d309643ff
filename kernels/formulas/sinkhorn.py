"""Sinkhorn iterations as one operator, `mhc::sinkhorn`: one node for autograd and for a compiler.

Written out, twenty Sinkhorn iterations are 79 autograd nodes that each keep a matrix per token, and as many nodes for a
compiler to lower. As one operator they keep the logits only: the backward runs the iterations again.
"""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor

from mhc_compile import _torch_compat as compat
from mhc_compile.kernels.define import define
from mhc_compile.kernels.formulas import reference
from mhc_compile.kernels.formulas.reference import SINKHORN_ITERATIONS
from mhc_compile.kernels.late import tell_inductor


def sinkhorn_forward(logits: Tensor, iterations: int) -> Tensor:
    """`reference.sinkhorn`, bit-equal; arguments as for `sinkhorn`."""
    M = torch.softmax(torch.log_softmax(logits.contiguous(), dim=0), dim=1)
    for _ in range(iterations - 1):
        M = M / _sums(M, 0)
        M = M / _sums(M, 1)
    return M


def sinkhorn_backward(grad: Tensor, logits: Tensor, iterations: int) -> Tensor:
    """The gradient for the logits; the iterates are computed again."""
    columns = torch.log_softmax(logits.contiguous(), dim=0)
    M = start = torch.softmax(columns, dim=1)
    steps = []
    for axis in (0, 1) * (iterations - 1):
        total = _sums(M, axis)
        M = M / total
        steps.append((axis, M, total))
    grad = grad.contiguous()
    tiny = torch.finfo(grad.dtype).tiny
    for axis, M, total in reversed(steps):  # M = M_before / total; a column that underflowed has no gradient
        grad = ((grad - (grad * M).sum(axis, keepdim=True)) / total).where(total > tiny, 0)
    grad = start * (grad - (grad * start).sum(1, keepdim=True))
    return grad - columns.exp() * grad.sum(0, keepdim=True)


def _sums(M: Tensor, axis: int) -> Tensor:
    """Sums of the columns (0) or rows (1); those of columns may underflow."""
    total = M.sum(axis, keepdim=True)
    return total if axis else total.clamp_min(torch.finfo(M.dtype).tiny)


def _shape(logits: Tensor, iterations: int) -> Tensor:
    tell_inductor()
    return logits.new_empty(logits.shape)


def _backward_shape(grad: Tensor, logits: Tensor, iterations: int) -> Tensor:
    return logits.new_empty(logits.shape)


def _keep_logits(ctx: Any, inputs: tuple[Tensor, int], output: Tensor) -> None:
    logits, ctx.iterations = inputs
    ctx.save_for_backward(logits)


def _differentiate(ctx: Any, grad: Tensor) -> tuple[Tensor, None]:
    (logits,) = ctx.saved_tensors
    return torch.ops.mhc.sinkhorn_backward(grad, logits, ctx.iterations), None


def _keep_both(ctx: Any, inputs: tuple[Tensor, Tensor, int], output: Tensor) -> None:
    grad, logits, ctx.iterations = inputs
    ctx.save_for_backward(grad, logits)


def _differentiate_twice(ctx: Any, grad: Tensor) -> tuple[Tensor, Tensor, None]:
    """Gradient penalties and Hessian products are rare: they go through the plain formula."""
    with torch.enable_grad():
        first, logits = (t.detach().requires_grad_() for t in ctx.saved_tensors)
        M = reference.sinkhorn(logits, iterations=ctx.iterations)
        (backward,) = torch.autograd.grad(M, logits, first, create_graph=True)
        return (*torch.autograd.grad(backward, (first, logits), grad), None)  # type: ignore[return-value]


define("sinkhorn", sinkhorn_forward, _shape, _differentiate, _keep_logits)
define("sinkhorn_backward", sinkhorn_backward, _backward_shape, _differentiate_twice, _keep_both)


def sinkhorn(logits: Tensor, *, iterations: int = SINKHORN_ITERATIONS) -> Tensor:
    """`reference.sinkhorn` as one operator, bit-equal to it, recomputing in the backward.

    Args:
        logits: `[n, n, ...]`, rows first, fp32 or fp64.
        iterations: at least 1.

    Returns:
        `[n, n, ...]`, contiguous, in the dtype of the logits. It can be differentiated twice.
    """
    if not torch.compiler.is_compiling() and compat.functorch_active():
        return reference.sinkhorn(logits, iterations=iterations)  # torch.func has no rule for custom operators
    return torch.ops.mhc.sinkhorn(logits, iterations)
