"""Custom operators of the fused steps, namespace `mhc`: one node each for autograd and for a compiler.

Each computes what the function of its name in `packed.py` says, and keeps for the backward its inputs and `stat`:
coefficients and the streams behind a write are computed again. `implementations.py` decides which code runs. Each
backward is an operator too, and can be differentiated once more.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from types import MappingProxyType
from typing import Any

import torch
from torch import Tensor

from mhc_compile import _torch_compat as compat
from mhc_compile.errors import KernelInputError
from mhc_compile.kernels.define import define
from mhc_compile.kernels.formulas import packed
from mhc_compile.kernels.formulas.lookup import operands_of
from mhc_compile.kernels.formulas.packed import FORWARD_STEPS, SINGLE_PASS, STEPS
from mhc_compile.kernels.formulas.steps import complete, constants_of, tensors_of
from mhc_compile.kernels.operators import checks
from mhc_compile.kernels.operators import shapes as op_shapes
from mhc_compile.kernels.operators.implementations import implementation
from mhc_compile.kernels.operators.second import SECOND

_PLAIN = frozenset({Tensor, torch.nn.Parameter, int, float, str})


def keeps_statistics(step: str) -> bool:
    """Whether the last result of a step is `stat`, which has no gradient."""
    return "phi" in tensors_of(step)


def _now(step: str) -> Callable[..., Any]:
    """The step itself, by the code that covers it."""
    check = getattr(checks, f"check_{step}")
    names = (*tensors_of(step), *constants_of(step))
    at = {name: names.index(name) for name in ("X", "y", "n", "connection") if name in names}

    def run(*args: Any) -> Any:
        if len(args) < len(names):
            args = complete(step, args)
        check(*args)
        y = args[at["y"]] if "y" in at else None
        connection = args[at["connection"]] if "connection" in at else None
        return getattr(implementation(args[at["X"]], y, args[at["n"]], connection), step)(*args)

    return run


_NOW: Mapping[str, Callable[..., Any]] = MappingProxyType({step: _now(step) for step in STEPS})


def _define(step: str) -> None:
    """Register a step and its backward."""
    forward, backward = step, f"{step}_backward"
    forward_schema, backward_schema = (
        torch.library.infer_schema(getattr(packed, name), mutates_args=()) for name in (forward, backward)
    )
    define(forward, _NOW[forward], getattr(op_shapes, step), _differentiate(step), _keep(step), forward_schema)
    fake = op_shapes.backward_of(step, tensors_of(step))
    define(backward, _NOW[backward], fake, _differentiate_again(step), _keep_all, backward_schema)


def _keep(step: str) -> Callable[..., None]:
    count, statistics = len(tensors_of(step)), keeps_statistics(step)

    def keep(ctx: Any, inputs: tuple[Any, ...], output: Any) -> None:
        ctx.constants = inputs[count:]
        kept = output[-1:] if statistics else ()
        ctx.mark_non_differentiable(*kept)
        ctx.save_for_backward(*inputs[:count], *kept)

    return keep


def _differentiate(step: str) -> Callable[..., Any]:
    statistics = keeps_statistics(step)

    def differentiate(ctx: Any, *grads: Any) -> tuple[Any, ...]:
        given = grads[:-1] if statistics else grads
        backward = getattr(torch.ops.mhc, f"{step}_backward")
        return *backward(*given, *ctx.saved_tensors, *ctx.constants), *(None for _ in ctx.constants)

    return differentiate


def _keep_all(ctx: Any, inputs: tuple[Any, ...], output: Any) -> None:
    ctx.set_materialize_grads(False)
    ctx.constants = [value for value in inputs if not isinstance(value, Tensor)]
    ctx.save_for_backward(*(value for value in inputs if isinstance(value, Tensor)))


def _differentiate_again(step: str) -> Callable[..., Any]:
    """The backward of a backward, by fused steps; by the plain formula where it is differentiated or recorded."""
    statistics = keeps_statistics(step)

    def differentiate(ctx: Any, *grads: Tensor | None) -> tuple[Tensor | None, ...]:
        if torch.is_grad_enabled() or _recorded():
            found = _by_formula(step, ctx.saved_tensors, ctx.constants, grads)
        else:
            found = (*SECOND[step](grads, *ctx.saved_tensors, *ctx.constants), *[None] * statistics)
        return *found, *(None for _ in ctx.constants)

    return differentiate


def _by_formula(
    step: str, saved: Sequence[Tensor], constants: Sequence[Any], grads: Sequence[Tensor | None]
) -> tuple[Tensor | None, ...]:
    """Gradients that can be differentiated again where this is asked. Statistics depend on the inputs: computed again.

    Views stand for what was saved: a gradient that was given may have been computed from an input, which is not asked.
    """
    again = torch.is_grad_enabled()
    with torch.enable_grad():
        tensors = [t.view_as(t) if again and t.requires_grad else t.detach().requires_grad_() for t in saved]
        given = list(tensors)
        if keeps_statistics(step):
            inputs = given[-1 - len(tensors_of(step)) : -1]
            given[-1] = getattr(packed, step)(*inputs, *constants)[-1]
        outputs = getattr(packed, f"{step}_backward")(*given, *constants)
        outputs = (outputs,) if isinstance(outputs, Tensor) else outputs
        asked = {output: grad for output, grad in zip(outputs, grads, strict=True) if grad is not None}
        return torch.autograd.grad(list(asked), tensors, list(asked.values()), create_graph=again, allow_unused=True)


for _step in FORWARD_STEPS:
    _define(_step)


def gate(
    X: Tensor, params: Sequence[Tensor], *, n: int, axis: int, connection: str = "mhc"
) -> tuple[Tensor, Tensor, Tensor]:
    """The operator `mhc::gate`; see `packed.gate`.

    Raises:
        KernelInputError: shapes, dtypes or devices do not fit, here and in the functions below.
    """
    return call("gate", X, *operands(params, n, connection), n, axis, connection)


def write(X: Tensor, y: Tensor, mix: Tensor, *, n: int, axis: int) -> Tensor:
    """The operator `mhc::write`; see `packed.write`."""
    return call("write", X, y, mix, n, axis)


def boundary(
    X: Tensor, y: Tensor, mix: Tensor, params: Sequence[Tensor], *, n: int, axis: int, connection: str = "mhc"
) -> tuple[Tensor, Tensor, Tensor, Tensor]:
    """The operator `mhc::boundary`; see `packed.boundary`."""
    return call("boundary", X, y, mix, *operands(params, n, connection), n, axis, connection)


def single_gate(
    X: Tensor, params: Sequence[Tensor], *, n: int, axis: int, connection: str = SINGLE_PASS
) -> tuple[Tensor, Tensor, Tensor]:
    """The operator `mhc::single_gate`; see `packed.single_gate`."""
    return call("single_gate", X, *operands(params, n, connection), n, axis, connection)


def single_boundary(
    X: Tensor,
    y: Tensor,
    mix: Tensor,
    pre: Tensor,
    params: Sequence[Tensor],
    *,
    n: int,
    axis: int,
    connection: str = SINGLE_PASS,
) -> tuple[Tensor, Tensor, Tensor, Tensor, Tensor]:
    """The operator `mhc::single_boundary`; see `packed.single_boundary`."""
    return call("single_boundary", X, y, mix, pre, *operands(params, n, connection), n, axis, connection)


def leave(X: Tensor, y: Tensor, mix: Tensor, *, n: int, axis: int, scale: float) -> Tensor:
    """The operator `mhc::leave`; see `packed.leave`."""
    return call("leave", X, y, mix, n, axis, scale)


def operands(params: Sequence[Tensor], n: int, connection: str) -> Sequence[Tensor]:
    """Phi, alpha and bias from the parameters of a site, which are these themselves for all connections but `hc`."""
    found = operands_of(connection, params, n)
    if len(found) != 3:
        raise KernelInputError(f"got {len(found)} parameters: write (phi, alpha, bias)")
    return found


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
    if torch.is_grad_enabled() or _recorded():
        return False
    return bool(args[0].is_cpu) and all(type(value) in _PLAIN for value in args)


def _recorded() -> bool:
    """Whether somebody sees the operators that run: a trace, or a mode such as one that counts them."""
    return torch.compiler.is_compiling() or bool(compat.dispatch_modes())


def needs_formula() -> bool:
    """Whether this runs under torch.func or forward-mode AD, which have no rule for operators."""
    if torch.compiler.is_compiling():
        return False
    return bool(compat.functorch_active()) or compat.in_forward_ad()
