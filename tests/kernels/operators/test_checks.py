"""Operands that do not fit are refused before a kernel runs."""

import pytest
import torch

from mhc_compile.errors import KernelInputError
from mhc_compile.kernels.formulas.packed import STEPS
from mhc_compile.kernels.operators import ops
from tests.kernels.step_inputs import step_inputs

GOOD = step_inputs(3, "last")


def call(**changes: object) -> None:
    given = {"X": GOOD.X, "y": GOOD.y, "mix": GOOD.mix, "params": GOOD.params, "n": 3, "axis": 2, **changes}
    ops.boundary(**given)


def test_operands_that_fit_are_taken() -> None:
    call()


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"n": 9}, "n=9 is out of range"),
        ({"n": 2}, "X holds 3 streams and n is 2"),
        ({"axis": 5}, "index 5 of a stream"),
        ({"X": GOOD.X[:, 0, 0]}, "at least one token dimension"),
        ({"X": GOOD.X.long()}, "floating point streams"),
        ({"X": GOOD.X.to(torch.float8_e4m3fn)}, "float8_e4m3fn.*of 16, 32 or 64 bits"),
        ({"X": GOOD.X.to_sparse()}, "sparse.*dense floating point"),
        ({"X": GOOD.X[..., :0]}, "without channels"),
        ({"y": GOOD.y[:1]}, "one of the shape of a stream"),
        ({"y": GOOD.y.long()}, "one of the shape of a stream"),
        ({"mix": GOOD.mix[:-1]}, "one row of post and R for each token, "),
        ({"mix": GOOD.mix[:, :-1]}, r"\[21, 12\]"),
        ({"mix": GOOD.mix.long()}, r"mix is int64\[21, 12\]"),
        ({"mix": GOOD.mix.bool()}, r"mix is bool"),
        ({"params": GOOD.params[:2]}, "got 2 parameters"),
        ({"params": (GOOD.params[0][:-1], *GOOD.params[1:])}, r"phi is float32\[194, 15\]"),
        ({"params": (*GOOD.params[:2], GOOD.params[2].long())}, "bias is int64"),
        ({"mix": GOOD.mix.to("meta")}, "move them to one device"),
    ],
)
def test_what_does_not_fit_is_named(changes: dict, message: str) -> None:
    with pytest.raises(KernelInputError, match=message):
        call(**changes)


def raw(step: str, **changes: object) -> None:
    """The operator itself, as generated code calls it."""
    n, tokens, columns = 3, GOOD.mix.shape[0], GOOD.params[2].numel()
    given = dict(X=GOOD.X, y=GOOD.y, mix=GOOD.mix, n=n, axis=2, scale=1 / n, gu=GOOD.y, gmix=GOOD.mix)
    given |= {"pre": GOOD.pre, "gpre": GOOD.pre, "connection": "mhc"}
    given |= dict(zip(("phi", "alpha", "bias"), GOOD.params, strict=True), stat=GOOD.mix.new_zeros(tokens, columns + 1))
    given |= {"g": GOOD.y if step == "leave_backward" else GOOD.X, **changes}
    operator = getattr(torch.ops.mhc, step).default
    operator(*(given[argument.name] for argument in operator._schema.arguments))


@pytest.mark.parametrize("step", STEPS)
def test_an_operator_refuses_each_operand_that_is_cut(step: str) -> None:
    raw(step)
    tensors = [a.name for a in getattr(torch.ops.mhc, step).default._schema.arguments if a.type.kind() == "TensorType"]
    for name in tensors:
        given = {
            **vars(GOOD),
            "gu": GOOD.y,
            "gmix": GOOD.mix,
            "stat": torch.zeros(21, 16),
            "g": GOOD.X,
            "gpre": GOOD.pre,
        }
        given |= dict(zip(("phi", "alpha", "bias"), GOOD.params, strict=True))
        with pytest.raises(KernelInputError, match=f"{'branch' if name == 'y' else name} "):
            raw(step, **{name: given[name][:-1]})


@pytest.mark.parametrize("scale", [float("nan"), float("inf")])
def test_an_operator_refuses_a_scale_that_is_no_number(scale: float) -> None:
    with pytest.raises(KernelInputError, match="finite number"):
        raw("leave", scale=scale)
