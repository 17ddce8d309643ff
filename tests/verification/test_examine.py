"""A transformed model that computes something else is found out, and so is who is to blame."""

from __future__ import annotations

import copy
import threading

import pytest
import torch
from torch import Tensor, nn

import mhc_compile
from mhc_compile.errors import NothingToTransformError, VerificationError
from mhc_compile.kernels.formulas.connections import CONNECTIONS
from mhc_compile.kernels.formulas.lookup import why_not_kept
from mhc_compile.verification.examine import FORMULAS, MODES, START, Check, Verification, raise_failures
from tests.moved import Net, X
from tests.toy_models import WIDTH
from tests.verification.faults import break_normalise

ONE_MODE = {"example_inputs": (X,), "modes": ("train",)}


class Dropping(Net):
    """With a batch norm and dropout, so that the modes differ, and statistics that a call writes."""

    def __init__(self) -> None:
        super().__init__()
        self.norm, self.drop = nn.BatchNorm1d(WIDTH), nn.Dropout(0.5)

    def forward(self, x: Tensor) -> Tensor:
        return self.drop(super().forward(self.norm(x.mT).mT))


def test_every_claim_holds_in_both_modes_and_nothing_is_changed():
    model = Dropping().double()
    before, random = copy.deepcopy(model.state_dict()), torch.get_rng_state()
    found = mhc_compile.verify(model, example_inputs=(X.double(),))
    made = [(check.mode, check.what) for check in found.checks if check.distance is not None]
    assert made == [(mode, what) for mode in ("train", "eval") for what in (START, FORMULAS)]
    assert found.sites == 2 and not found.failures
    assert all(check.distance < 1e-12 for check in found.checks if check.distance is not None)
    assert [(check.what, check.note) for check in found.checks if check.note] == [
        (MODES, "they differ in the plain model too")
    ]
    assert torch.equal(torch.get_rng_state(), random)
    assert all(torch.equal(value, before[name]) for name, value in model.state_dict().items())


@pytest.mark.usefixtures("without_kernels")
@pytest.mark.parametrize("connection", [*sorted(CONNECTIONS.keys() - {"residual"}), "identity:magnitude=1.5,eps=0.01"])
def test_every_connection_follows_its_formulas_once_trained(connection):
    init = "random" if why_not_kept(connection, 4) else "preserve"
    found = mhc_compile.verify(
        Net().double(), connection=connection, init=init, **{**ONE_MODE, "example_inputs": X.double()}
    )
    *_, formulas = found.checks
    assert formulas.what == FORMULAS and formulas.distance < 1e-12


def test_modes_are_compared_where_the_model_itself_has_no_other_result():
    *_, last = mhc_compile.verify(Net(), example_inputs=(X,)).checks
    assert last.what == MODES and last.distance is not None and not last.failed


def test_what_does_not_start_as_the_model_is_held_against_its_formulas_alone():
    start, formulas = mhc_compile.verify(Net(), init="random", **ONE_MODE).checks
    assert start.distance is None and start.note.startswith("it is not meant to")
    assert formulas.distance is not None and not formulas.failed


@pytest.mark.usefixtures("wrong_rewrite")
def test_a_wrong_rewrite_is_blamed_with_the_first_module_that_it_changes():
    start, formulas = mhc_compile.verify(Net(), **ONE_MODE).checks
    assert start.failed and formulas.failed
    assert start.note.startswith("the rewrite is wrong, first in blocks.0") and formulas.note == start.note
    with pytest.raises(
        VerificationError, match=r"in train mode: 'starts as the model' is not true.*first in blocks\.0"
    ):
        mhc_compile.transform(Net(), verify=True, **ONE_MODE)


@pytest.mark.usefixtures("wrong_trace")
def test_a_trace_that_computes_something_else_is_blamed_instead():
    (start, *_) = mhc_compile.verify(Net(), **ONE_MODE).checks
    assert start.failed and start.note.startswith("PyTorch's own trace of the model computes something else, first in")
    assert "first in blocks.0" in start.note


def test_a_graph_that_is_wrong_before_it_is_rewritten_is_not_blamed_on_pytorch(monkeypatch):
    break_normalise(monkeypatch)
    (start, *_) = mhc_compile.verify(Net(), **ONE_MODE).checks
    assert start.failed and start.note.startswith("the graph is wrong before it is rewritten, first in blocks.0")


def test_where_nothing_could_be_compared_nothing_is_verified():
    note = "the model itself returns something else at each call"
    found = Verification("Net", 2, tuple(Check(mode, START, None, 1e-3, note) for mode in ("train", "eval")))
    with pytest.raises(VerificationError, match=rf"nothing of Net could be compared \({note}\)"):
        raise_failures(found)


def test_transform_returns_the_model_that_was_verified():
    model = mhc_compile.transform(Net(), verify=True, **ONE_MODE)
    assert len(model.mhc_plan.sites) == 2


def test_what_has_no_values_cannot_be_verified():
    with torch.device("meta"):
        model, x = Net(), torch.empty(2, 3, WIDTH)
    with pytest.raises(VerificationError, match=r"on the meta device.*verify=False"):
        mhc_compile.transform(model, verify=True, example_inputs=(x,))
    with pytest.raises(VerificationError, match="has no example inputs"):
        mhc_compile.verify(Net())


def test_what_cannot_be_copied_is_one_clear_error():
    model = Net()
    model.lock = threading.Lock()
    with pytest.raises(VerificationError, match=r"Net cannot be copied.*write verify=False"):
        mhc_compile.verify(model, **ONE_MODE)


def test_without_a_site_there_is_nothing_to_verify():
    with pytest.raises(NothingToTransformError, match="nothing to verify"):
        mhc_compile.verify(nn.Linear(WIDTH, WIDTH), example_inputs=(X,))
