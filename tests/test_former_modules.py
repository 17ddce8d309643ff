"""Files of version 0.1, made before the package had rooms (`tests/former`), load and compute what they did."""

from __future__ import annotations

import pickle
import sys
from pathlib import Path

import pytest
import torch

import mhc_compile
from mhc_compile import checkpoint
from mhc_compile.former_modules import FORMER
from tests.moved import Net, X

FILES = Path(__file__).parent / "former"


@pytest.mark.parametrize("connection", ["mhc", "hc"])
def test_a_pickled_model_computes_what_it_did(connection: str) -> None:
    model = pickle.loads((FILES / f"{connection}_model.pickle").read_bytes())
    expected = torch.load(FILES / f"{connection}_output.pt")
    with torch.no_grad():
        torch.testing.assert_close(model(X), expected)
    assert model.mhc_plan.sites and type(model.mhc_plan).__module__.startswith("mhc_compile.passes.plan")


@pytest.mark.parametrize("name", ["checkpoint.pt", "checkpoint.safetensors"])
def test_a_checkpoint_loads_and_computes_what_it_did(name: str) -> None:
    model = mhc_compile.transform(Net().eval(), n=2, example_inputs=(X,), modes=("eval",))
    model.load_state_dict(checkpoint.load(FILES / name))
    with torch.no_grad():
        torch.testing.assert_close(model(X), torch.load(FILES / "mhc_output.pt"))


@pytest.mark.parametrize(
    "name", ["stage.Stage", "explain.Explanation", "explain.Break", "graphs.GraphRecord", "dynamo_model.Origin"]
)
def test_classes_are_found_under_their_names_of_then(name: str) -> None:
    module, _, kind = name.partition(".")
    found = pickle.loads(b"c" + f"mhc_compile.{module}\n{kind}\n.".encode())
    assert found.__name__ == kind and found.__module__ != f"mhc_compile.{module}"


def test_functions_of_the_package_do_not_become_modules() -> None:
    pickle.loads(pickle.dumps(mhc_compile.backend(n=2)))
    assert "backend" in FORMER and callable(mhc_compile.backend)


def test_every_module_of_the_package_says_where_it_lies() -> None:
    """The runner of faults looks whether all code came from its copy, as coverage and reloading tools do."""
    ours = {name: module for name, module in sys.modules.items() if name.partition(".")[0] == "mhc_compile"}
    assert [name for name, module in ours.items() if not Path(module.__file__ or "").is_file()] == []
