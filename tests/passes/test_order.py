from __future__ import annotations

import sys

import pytest
import torch
from torch import fx, nn

from mhc_compile.config import Config
from mhc_compile.passes.order import make_plan, rewrite_graph
from tests.passes.graphs import error, traced
from tests.passes.layers import PreNorm, tokens
from tests.passes.shapes import SHAPES

X = tokens()


@pytest.mark.parametrize("name", ["in place", "checkpointed whole", "post-norm", "tanh GELU"])
def test_planning_does_not_change_what_the_graph_computes(name):
    model, inputs = SHAPES[name].make()
    gm = traced(model, *inputs, front_end="dynamo")
    make_plan(gm, Config())
    gm.graph.lint()
    gm.recompile()
    assert error(gm(*inputs), model(*inputs)) <= 1e-12


def test_planning_twice_gives_the_same_plan():
    gm = traced(SHAPES["pre-norm"].make()[0], X)
    assert make_plan(gm, Config()) == make_plan(gm, Config())


def test_two_traces_of_one_model_give_the_same_plan():
    model = SHAPES["pre-norm"].make()[0]
    assert make_plan(traced(model, X), Config()) == make_plan(traced(model, X), Config())


def test_an_empty_plan_rewrites_nothing():
    gm = traced(nn.Linear(8, 8).double(), X)
    nodes = str(gm.graph)
    assert str(rewrite_graph(gm, make_plan(gm, Config()), Config()).graph) == nodes


def calls_of(run) -> int:
    """Number of Python and C calls `run()` makes."""
    count = 0

    def profile(frame, event, argument):
        nonlocal count
        count += event in ("call", "c_call")

    before = sys.getprofile()
    sys.setprofile(profile)
    try:
        run()
    finally:
        sys.setprofile(before)
    return count


def stack(layers: int) -> fx.GraphModule:
    return traced(nn.Sequential(*(PreNorm() for _ in range(layers))).double(), X)


@pytest.mark.parametrize("step", ["plan", "rewrite"])
def test_the_passes_take_a_number_of_calls_linear_in_the_graph(step):
    per_node = {}
    for layers in (6, 24):
        gm, config = stack(layers), Config()
        nodes = len(gm.graph.nodes)
        if step == "plan":
            per_node[layers] = calls_of(lambda gm=gm, config=config: make_plan(gm, config)) / nodes
        else:
            plan = make_plan(gm, config)
            per_node[layers] = calls_of(lambda gm=gm, p=plan, config=config: rewrite_graph(gm, p, config)) / nodes
    assert per_node[24] <= 1.2 * per_node[6]  # a quadratic pass has 4


def test_meta_tensors_are_planned():
    with torch.device("meta"):
        model = nn.Sequential(PreNorm(), PreNorm())
        gm = traced(model, torch.empty(2, 6, 8), front_end="dynamo")
    assert len(make_plan(gm, Config()).sites) == 4
