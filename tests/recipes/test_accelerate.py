"""accelerate around transformed models, as `docs/recipes/accelerate.md` has it."""

from __future__ import annotations

import pytest
import torch
from accelerate.state import AcceleratorState
from torch.testing import assert_close

import mhc_compile
from tests.moved import Net, X, move
from tests.recipes.documents import run_recipe


@pytest.fixture(autouse=True)
def _accelerate_anew():
    """Its settings are those of the process."""
    AcceleratorState._reset_state(reset_partial_state=True)
    yield
    AcceleratorState._reset_state(reset_partial_state=True)


@pytest.fixture
def transform(monkeypatch):
    """`transform` in one mode, with new parameters that are moved, so that what runs plain has other numbers."""
    original = mhc_compile.transform

    def moved(model, **options):
        return move(original(model, modes=("train" if model.training else "eval",), **options))

    monkeypatch.setattr(mhc_compile, "transform", moved)
    return moved


@pytest.mark.usefixtures("transform")
def test_a_loop_of_ones_own_saves_and_loads_its_state(tmp_path):
    names = run_recipe("accelerate", "A loop of one's own", plain=Net(), x=X, cpu=True, folder=str(tmp_path))
    model, saved = names["model"], {name: p.detach().clone() for name, p in names["model"].named_parameters()}
    assert all(p.grad is not None for p in model.hyper_connections.parameters())
    with torch.no_grad():
        for parameter in model.parameters():
            parameter += 1
    names["accelerator"].load_state(str(tmp_path))
    assert all(torch.equal(p, saved[name]) for name, p in model.named_parameters())


@pytest.mark.parametrize(
    ("heading", "given"), [("Offloading", {"device": "cpu"}), ("Regional compilation", {"backend": "eager"})]
)
def test_what_it_makes_of_a_model_computes_the_same(heading, given, transform):
    torch.manual_seed(0)
    plain = Net().eval()
    names = run_recipe("accelerate", heading, plain=plain, x=X, **given)
    assert_close(names["y"], transform(plain, example_inputs=(X,))(X))
    assert (names["y"] - plain(X)).abs().max() > 1e-3
