from __future__ import annotations

import pytest

from mhc_compile.diagnostics.recorder import Record
from mhc_compile.diagnostics.writers import scalars, writer_of
from tests.diagnostics.figures_by_hand import diagnosis, site


class Board:
    """Shaped like `torch.utils.tensorboard.SummaryWriter`."""

    def __init__(self):
        self.rows = []

    def add_scalar(self, tag, scalar_value, global_step):
        self.rows.append((tag, scalar_value, global_step))


class Run:
    """Shaped like what `wandb.init` returns."""

    def __init__(self):
        self.rows = []

    def log(self, data, step):
        self.rows.append((data, step))


RECORD = Record(200, diagnosis(site("a", composite_forward=3.0), site("b", "a", spread=0.5)))


def test_tensorboard_gets_scalars_with_the_step():
    board = Board()
    writer_of(board)(RECORD)
    assert ("mhc/segment_0/composite_forward", 3.0, 200) in board.rows
    assert ("mhc/b/spread", 0.5, 200) in board.rows
    assert all(isinstance(value, float) for _, value, _ in board.rows)


def test_wandb_gets_one_row():
    run = Run()
    writer_of(run)(RECORD)
    ((data, step),) = run.rows
    assert step == 200 and data["mhc/a/composite_forward"] == 3.0 and data["mhc/alarms"] == 0


def test_what_is_not_finite_is_left_out_and_counted():
    found = dict(scalars(diagnosis(site("a", gain_forward=float("nan"), trouble="branch"))))
    assert "mhc/a/gain_forward" not in found and found["mhc/not_finite"] == 1 and found["mhc/a/gain_backward"] == 1


@pytest.mark.parametrize("shape", [Board, Run])
def test_objects_are_known_by_their_methods(shape):
    assert writer_of(shape()) is not None
