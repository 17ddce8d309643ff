"""Operands that do not fit are refused before a kernel runs."""

import pytest

from mhc_compile.errors import KernelInputError
from mhc_compile.kernels import ops
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
        ({"y": GOOD.y[:1]}, "one of the same shape"),
        ({"y": GOOD.y.long()}, "one of the same shape"),
        ({"mix": GOOD.mix[:-1]}, "one row of post and R for each token"),
        ({"mix": GOOD.mix[:, :-1]}, r"write \[21, 12\]"),
        ({"params": GOOD.params[:2]}, "got 2 parameters"),
        ({"params": (GOOD.params[0][:-1], *GOOD.params[1:])}, r"phi is float32\[194, 15\]"),
        ({"params": (*GOOD.params[:2], GOOD.params[2].long())}, "bias is int64"),
        ({"mix": GOOD.mix.to("meta")}, "move them to one device"),
    ],
)
def test_what_does_not_fit_is_named(changes: dict, message: str) -> None:
    with pytest.raises(KernelInputError, match=message):
        call(**changes)
