"""The steps that write, without keeping their streams: the backward restores them from those at the start of a group.

`mhc::write_recomputed`, `boundary_recomputed`, `single_boundary_recomputed` and `leave_recomputed` compute what the
operators without the suffix do.
Two operands more are kept instead of X: `start`, the streams some sites earlier, and `past`, branch output and `mix` of
each site between. Those sites keep these tensors anyway. The backward operators restore X, with the bits it had, and go
on as always. Restoring is a part of them: an operator of its own would depend on no gradient, and a compiler would run
it in the forward and keep its result.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from functools import partial, reduce
from typing import Any

import torch
from torch import Tensor

from mhc_compile.kernels.define import define
from mhc_compile.kernels.formulas import packed
from mhc_compile.kernels.formulas.packed import SINGLE_PASS
from mhc_compile.kernels.formulas.steps import tensors_of
from mhc_compile.kernels.operators import checks, ops
from mhc_compile.kernels.operators.implementations import chosen

_PLACE = ("SymInt n", "SymInt axis")


@dataclass(frozen=True)
class Step:
    """The operands of one step.

    Attributes:
        name: of the operator without recomputation.
        inputs: its tensors, streams first.
        gradients: how many of its results have one.
        statistics: whether one more result is kept for the backward.
        constants: as in a schema.
    """

    name: str
    inputs: tuple[str, ...]
    gradients: int = 1
    statistics: bool = False
    constants: tuple[str, ...] = _PLACE

    def forward(self, X: Tensor, *rest: Any) -> Any:
        """Implementation and fake of `mhc::<name>_recomputed`."""
        *operands, start, past = rest
        n, axis, *_ = operands[len(self.inputs) - 1 :]
        checks.check_restore(X, start, past, n, axis)
        return getattr(torch.ops.mhc, self.name)(X, *operands)

    def backward(self, restoring: Callable[..., Tensor], *args: Any) -> Any:
        """Implementation and fake of `mhc::<name>_recomputed_backward`, which differ in how streams are restored."""
        gradients, (start, past, *rest) = args[: self.gradients], args[self.gradients :]
        n, axis, *_ = rest[-len(self.constants) :]
        X = restoring(start, past, n, axis)
        return getattr(torch.ops.mhc, f"{self.name}_backward")(*gradients, X, *rest)

    def keep(self, ctx: Any, inputs: tuple[Any, ...], output: Any) -> None:
        """The start instead of X, the past, and what the step keeps anyway."""
        _, *operands, start, past = inputs
        count = len(self.inputs) - 1
        ctx.constants, ctx.past = operands[count:], len(past)
        statistics = output[-1:] if self.statistics else ()
        ctx.mark_non_differentiable(*statistics)
        ctx.save_for_backward(start, *past, *operands[:count], *statistics)

    def differentiate(self, ctx: Any, *grads: Tensor) -> tuple[Any, ...]:
        """Gradients of the inputs; start and past have none, for they change nothing."""
        start, *tensors = ctx.saved_tensors
        past, tensors = tensors[: ctx.past], tensors[ctx.past :]
        op = getattr(torch.ops.mhc, f"{self.name}_recomputed_backward")
        found = op(*grads[: self.gradients], start, past, *tensors, *ctx.constants)
        return *found, *(None for _ in ctx.constants), None, [None] * ctx.past

    def define(self) -> None:
        """Register both operators."""
        n = len(self.inputs)
        tensors = [f"Tensor {name}" for name in self.inputs]
        history = ["Tensor start", "Tensor[] past"]
        name = f"{self.name}_recomputed"
        schema = _schema([*tensors, *self.constants, *history], self.gradients + self.statistics)
        define(name, self.forward, self.forward, self.differentiate, self.keep, schema)
        gradients = [f"Tensor g{i}" for i in range(self.gradients)]
        statistics = ["Tensor stat"] * self.statistics
        schema = _schema([*gradients, *history, *tensors[1:], *statistics, *self.constants], n)
        function, fake = partial(self.backward, restore), partial(self.backward, _shape_of_restored)
        define(f"{name}_backward", function, fake, self.differentiate_again, _keep_all, schema)

    def differentiate_again(self, ctx: Any, *grads: Tensor) -> tuple[Any, ...]:
        """Through the formula of restoring and the second derivative of the step itself."""
        at = self.gradients + 1
        with torch.enable_grad():
            leaves = [t.detach().requires_grad_() for t in ctx.saved_tensors]
            given = [*leaves[:at], leaves[at : at + ctx.past], *leaves[at + ctx.past :]]
            outputs = self.backward(packed.restore, *given, *ctx.constants)
            found = torch.autograd.grad(outputs, leaves, grads, allow_unused=True)
        past = list(found[at : at + ctx.past])
        return *found[:at], past, *found[at + ctx.past :], *(None for _ in ctx.constants)


STEPS = (
    Step("write", ("X", "y", "mix")),
    Step("boundary", tensors_of("boundary"), gradients=3, statistics=True, constants=(*_PLACE, "str connection")),
    Step(
        "single_boundary",
        tensors_of("single_boundary"),
        gradients=4,
        statistics=True,
        constants=(*_PLACE, "str connection"),
    ),
    Step("leave", ("X", "y", "mix"), constants=(*_PLACE, "float scale")),
)


def _schema(arguments: Sequence[str], results: int) -> str:
    return f"({', '.join(arguments)}) -> ({', '.join(['Tensor'] * results)})"


def _keep_all(ctx: Any, inputs: tuple[Any, ...], output: Any) -> None:
    (past,) = (value for value in inputs if isinstance(value, list))
    ctx.past = len(past)
    ctx.constants = [value for value in inputs if not isinstance(value, (Tensor, list))]
    ctx.save_for_backward(*(t for value in inputs for t in _tensors(value)))


def _tensors(value: Any) -> Sequence[Tensor]:
    return value if isinstance(value, list) else [value] if isinstance(value, Tensor) else []


def _dtype(start: Tensor, past: Sequence[Tensor]) -> torch.dtype:
    return reduce(torch.promote_types, (y.dtype for y in past[::2]), start.dtype)


def restore(start: Tensor, past: Sequence[Tensor], n: int, axis: int) -> Tensor:
    """`packed.restore` by the fastest code that covers it."""
    restored: Tensor = chosen(start.device.type, _dtype(start, past), n).restore(start, past, n, axis)
    return restored


def _shape_of_restored(start: Tensor, past: Sequence[Tensor], n: int, axis: int) -> Tensor:
    return start.new_empty((n, *start.shape[1:]), dtype=_dtype(start, past))


for _step in STEPS:
    _step.define()


def write(X: Tensor, y: Tensor, mix: Tensor, recompute: Sequence[Tensor], *, n: int, axis: int) -> Tensor:
    """`ops.write`; `recompute` is `(start, y, mix, y, mix, ...)`: streams, and the past of the sites since then.

    Without it, without gradients and while exporting, this is `ops.write` itself, here and in the functions below.

    Raises:
        KernelInputError: as `ops.write`; also if writing the past to the start makes no streams of the shape of X.
    """
    return _call("write", (X, y, mix, n, axis), recompute)


def boundary(
    X: Tensor,
    y: Tensor,
    mix: Tensor,
    params: Sequence[Tensor],
    recompute: Sequence[Tensor],
    *,
    n: int,
    axis: int,
    connection: str = "mhc",
) -> tuple[Tensor, Tensor, Tensor, Tensor]:
    """`ops.boundary`, with `recompute` as for `write`."""
    return _call("boundary", (X, y, mix, *ops.operands(params, n, connection), n, axis, connection), recompute)


def single_boundary(
    X: Tensor,
    y: Tensor,
    mix: Tensor,
    pre: Tensor,
    params: Sequence[Tensor],
    recompute: Sequence[Tensor],
    *,
    n: int,
    axis: int,
    connection: str = SINGLE_PASS,
) -> tuple[Tensor, Tensor, Tensor, Tensor, Tensor]:
    """`ops.single_boundary`, with `recompute` as for `write`."""
    return _call(
        "single_boundary", (X, y, mix, pre, *ops.operands(params, n, connection), n, axis, connection), recompute
    )


def leave(X: Tensor, y: Tensor, mix: Tensor, recompute: Sequence[Tensor], *, n: int, axis: int, scale: float) -> Tensor:
    """`ops.leave`, with `recompute` as for `write`."""
    return _call("leave", (X, y, mix, n, axis, scale), recompute)


def _call(step: str, args: tuple[Any, ...], recompute: Sequence[Tensor]) -> Any:
    plain = not torch.is_grad_enabled() or torch.compiler.is_exporting()
    if plain or not recompute or ops.needs_formula():
        return ops.call(step, *args)
    start, *past = recompute
    entry = start.ndim == args[0].ndim - 1  # there one tensor stands for all streams
    return getattr(torch.ops.mhc, f"{step}_recomputed")(*args, start.unsqueeze(0) if entry else start, past)
