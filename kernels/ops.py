"""Custom operators of the fused steps, namespace `mhc`: one node each for autograd and for a compiler.

`gate`, `write`, `boundary` and `leave` compute what the functions of these names in `packed.py` say, and keep for the
backward the streams, the branch and `stat`: coefficients and the streams behind a write are computed again.
`implementations.py` decides which code runs. Each backward is an operator too, and can be differentiated once more.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from types import MappingProxyType
from typing import Any

import torch
from torch import Tensor

from mhc_compile import _torch_compat as compat
from mhc_compile.errors import KernelInputError
from mhc_compile.kernels import checks, op_shapes, packed
from mhc_compile.kernels.implementations import implementation

Op = Any  # torch.library.CustomOpDef, whose methods are generic decorators
_PLAIN = frozenset({Tensor, torch.nn.Parameter, int, float})


def _gate_now(X: Tensor, phi: Tensor, alpha: Tensor, bias: Tensor, n: int, axis: int) -> tuple[Tensor, Tensor, Tensor]:
    checks.check_gate(X, phi, alpha, bias, n, axis)
    return implementation(X, None, n).gate(X, phi, alpha, bias, n, axis)


def _write_now(X: Tensor, y: Tensor, mix: Tensor, n: int, axis: int) -> Tensor:
    checks.check_write(X, y, mix, n, axis)
    return implementation(X, y, n).write(X, y, mix, n, axis)


def _boundary_now(
    X: Tensor, y: Tensor, mix: Tensor, phi: Tensor, alpha: Tensor, bias: Tensor, n: int, axis: int
) -> tuple[Tensor, Tensor, Tensor, Tensor]:
    checks.check_boundary(X, y, mix, phi, alpha, bias, n, axis)
    return implementation(X, y, n).boundary(X, y, mix, phi, alpha, bias, n, axis)


def _leave_now(X: Tensor, y: Tensor, mix: Tensor, n: int, axis: int, scale: float) -> Tensor:
    checks.check_leave(X, y, mix, n, axis, scale)
    return implementation(X, y, n).leave(X, y, mix, n, axis, scale)


_gate: Op = torch.library.custom_op("mhc::gate", _gate_now, mutates_args=())
_write: Op = torch.library.custom_op("mhc::write", _write_now, mutates_args=())
_boundary: Op = torch.library.custom_op("mhc::boundary", _boundary_now, mutates_args=())
_leave: Op = torch.library.custom_op("mhc::leave", _leave_now, mutates_args=())
_NOW: Mapping[str, Callable[..., Any]] = MappingProxyType(
    {"gate": _gate_now, "write": _write_now, "boundary": _boundary_now, "leave": _leave_now}
)


@torch.library.custom_op("mhc::gate_backward", mutates_args=())
def _gate_backward(
    gu: Tensor, gmix: Tensor, X: Tensor, phi: Tensor, alpha: Tensor, bias: Tensor, stat: Tensor, n: int, axis: int
) -> tuple[Tensor, Tensor, Tensor, Tensor]:
    checks.check_gate_backward(gu, gmix, X, phi, alpha, bias, stat, n, axis)
    return implementation(X, None, n).gate_backward(gu, gmix, X, phi, alpha, bias, stat, n, axis)


@torch.library.custom_op("mhc::write_backward", mutates_args=())
def _write_backward(g: Tensor, X: Tensor, y: Tensor, mix: Tensor, n: int, axis: int) -> tuple[Tensor, Tensor, Tensor]:
    checks.check_write_backward(g, X, y, mix, n, axis)
    return implementation(X, y, n).write_backward(g, X, y, mix, n, axis)


@torch.library.custom_op("mhc::boundary_backward", mutates_args=())
def _boundary_backward(
    g: Tensor,
    gu: Tensor,
    gmix: Tensor,
    X: Tensor,
    y: Tensor,
    mix: Tensor,
    phi: Tensor,
    alpha: Tensor,
    bias: Tensor,
    stat: Tensor,
    n: int,
    axis: int,
) -> tuple[Tensor, Tensor, Tensor, Tensor, Tensor, Tensor]:
    checks.check_boundary_backward(g, gu, gmix, X, y, mix, phi, alpha, bias, stat, n, axis)
    return implementation(X, y, n).boundary_backward(g, gu, gmix, X, y, mix, phi, alpha, bias, stat, n, axis)


@torch.library.custom_op("mhc::leave_backward", mutates_args=())
def _leave_backward(
    g: Tensor, X: Tensor, y: Tensor, mix: Tensor, n: int, axis: int, scale: float
) -> tuple[Tensor, Tensor, Tensor]:
    checks.check_leave_backward(g, X, y, mix, n, axis, scale)
    return implementation(X, y, n).leave_backward(g, X, y, mix, n, axis, scale)


_gate.register_fake(op_shapes.gate)
_write.register_fake(op_shapes.write)
_boundary.register_fake(op_shapes.boundary)
_leave.register_fake(op_shapes.leave)
_gate_backward.register_fake(op_shapes.gate_backward)
_write_backward.register_fake(op_shapes.write_backward)
_boundary_backward.register_fake(op_shapes.boundary_backward)
_leave_backward.register_fake(op_shapes.leave_backward)


def _keep_gate(ctx: Any, inputs: tuple[Any, ...], output: tuple[Tensor, ...]) -> None:
    *tensors, ctx.n, ctx.axis = inputs
    ctx.mark_non_differentiable(output[-1])
    ctx.save_for_backward(*tensors, output[-1])


def _differentiate_gate(ctx: Any, gu: Tensor, gmix: Tensor, _: Any) -> tuple[Any, ...]:
    grads = torch.ops.mhc.gate_backward(gu, gmix, *ctx.saved_tensors, ctx.n, ctx.axis)
    return *grads, None, None


def _differentiate_boundary(ctx: Any, g: Tensor, gu: Tensor, gmix: Tensor, _: Any) -> tuple[Any, ...]:
    grads = torch.ops.mhc.boundary_backward(g, gu, gmix, *ctx.saved_tensors, ctx.n, ctx.axis)
    return *grads, None, None


def _keep_write(ctx: Any, inputs: tuple[Any, ...], output: Tensor) -> None:
    ctx.constants = inputs[3:]
    ctx.save_for_backward(*inputs[:3])


def _differentiate_write(ctx: Any, g: Tensor) -> tuple[Any, ...]:
    return *torch.ops.mhc.write_backward(g, *ctx.saved_tensors, *ctx.constants), None, None


def _differentiate_leave(ctx: Any, g: Tensor) -> tuple[Any, ...]:
    return *torch.ops.mhc.leave_backward(g, *ctx.saved_tensors, *ctx.constants), None, None, None


_gate.register_autograd(_differentiate_gate, setup_context=_keep_gate)
_boundary.register_autograd(_differentiate_boundary, setup_context=_keep_gate)
_write.register_autograd(_differentiate_write, setup_context=_keep_write)
_leave.register_autograd(_differentiate_leave, setup_context=_keep_write)


def _register_second(op: Op, formula: Callable[..., Any]) -> None:
    """Differentiate a backward operator through the plain formula: gradient penalties and Hessian products are rare."""

    def keep(ctx: Any, inputs: tuple[Any, ...], output: Any) -> None:
        ctx.is_tensor = [isinstance(value, Tensor) for value in inputs]
        ctx.constants = [value for value in inputs if not isinstance(value, Tensor)]
        ctx.save_for_backward(*(value for value in inputs if isinstance(value, Tensor)))

    def differentiate(ctx: Any, *grads: Tensor) -> tuple[Tensor | None, ...]:
        with torch.enable_grad():
            tensors = [t.detach().requires_grad_() for t in ctx.saved_tensors]
            outputs = formula(*tensors, *ctx.constants)
            found = torch.autograd.grad(outputs, tensors, grads, allow_unused=True)
        return *found, *(None for _ in ctx.constants)

    op.register_autograd(differentiate, setup_context=keep)


def _with_statistics(backward: Callable[..., Any], forward: Callable[..., Any], grads: int) -> Callable[..., Any]:
    """`backward` with the statistics computed again by `forward`: at second order they depend on the streams too."""

    def formula(*args: Any) -> Any:
        inputs, constants = args[grads:-3], args[-2:]
        return backward(*args[:-3], forward(*inputs, *constants)[-1], *constants)

    return formula


_register_second(_gate_backward, _with_statistics(packed.gate_backward, packed.gate, 2))
_register_second(_write_backward, packed.write_backward)
_register_second(_boundary_backward, _with_statistics(packed.boundary_backward, packed.boundary, 3))
_register_second(_leave_backward, packed.leave_backward)


def gate(X: Tensor, params: Sequence[Tensor], *, n: int, axis: int) -> tuple[Tensor, Tensor, Tensor]:
    """The operator `mhc::gate`; see `packed.gate`.

    Raises:
        KernelInputError: shapes, dtypes or devices do not fit, here and in the functions below.
    """
    return call("gate", X, *three(params), n, axis)


def write(X: Tensor, y: Tensor, mix: Tensor, *, n: int, axis: int) -> Tensor:
    """The operator `mhc::write`; see `packed.write`."""
    return call("write", X, y, mix, n, axis)


def boundary(
    X: Tensor, y: Tensor, mix: Tensor, params: Sequence[Tensor], *, n: int, axis: int
) -> tuple[Tensor, Tensor, Tensor, Tensor]:
    """The operator `mhc::boundary`; see `packed.boundary`."""
    return call("boundary", X, y, mix, *three(params), n, axis)


def leave(X: Tensor, y: Tensor, mix: Tensor, *, n: int, axis: int, scale: float) -> Tensor:
    """The operator `mhc::leave`; see `packed.leave`."""
    return call("leave", X, y, mix, n, axis, scale)


def three(params: Sequence[Tensor]) -> Sequence[Tensor]:
    """The parameters of a site, checked to be phi, alpha and bias."""
    if len(params) != 3:
        raise KernelInputError(f"got {len(params)} parameters: write (phi, alpha, bias)")
    return params


def call(step: str, *args: Any) -> Any:
    """The operator of a step; or the plain formula where operators have no rule.

    Where nobody but the kernel would see the operator, the kernel is called without it: to go through PyTorch's
    dispatcher takes longer than to mix the streams of one token.
    """
    if needs_formula():
        getattr(checks, f"check_{step}")(*args)  # an operator checks for itself
        return getattr(packed, step)(*args)
    return _NOW[step](*args) if _only_computes(args) else getattr(torch.ops.mhc, step)(*args)


def _only_computes(args: Sequence[Any]) -> bool:
    """Whether nothing records an operator, and nothing but plain tensors of the CPU goes in."""
    if torch.compiler.is_compiling() or torch.is_grad_enabled() or compat.dispatch_modes():
        return False
    return bool(args[0].is_cpu) and all(type(value) in _PLAIN for value in args)


def needs_formula() -> bool:
    """Whether this runs under torch.func or forward-mode AD, which have no rule for operators."""
    if torch.compiler.is_compiling():
        return False
    return bool(compat.functorch_active()) or compat.load("forward_ad_level") >= 0
