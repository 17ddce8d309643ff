"""Graphs over a list of sources compute what the plan says, whatever lies between the sites."""

from __future__ import annotations

import pytest

from tests.passes.graphs import preserved, trained
from tests.passes.shapes import SHAPES
from tests.tables import also

CONNECTIONS = ["attention", "dense:rank=2", *also("dense", "dense:layers=1", "attention:layers=2")]
NAMES = [
    "pre-norm",
    "post-norm",
    "resnet stage",
    "scaled skip",
    "parallel",
    "through a 2-D view",
    "shared layers",
    "sliced skip",
    "positions in every layer",
]
"""One of each kind of what lies on a stream; the others are for `make exhaustive`."""


@pytest.mark.parametrize("connection", CONNECTIONS)
@pytest.mark.parametrize("name", [*NAMES, *also(*(n for n, s in SHAPES.items() if s.keys and n not in NAMES))])
def test_the_graph_follows_the_formulas_of_its_plan(name: str, connection: str):
    model, inputs = SHAPES[name].make()
    difference, plan = trained(model, *inputs, connection=connection)
    assert difference < 1e-9 and tuple(site.key for site in plan.sites) == SHAPES[name].keys


@pytest.mark.parametrize("name", ["pre-norm", "post-norm", "through a 2-D view", *also("resnet stage", "sliced skip")])
def test_dense_keeps_the_function(name: str):
    model, inputs = SHAPES[name].make()
    difference, _ = preserved(model, *inputs, connection="dense:rank=2")
    assert difference <= 1e-10
