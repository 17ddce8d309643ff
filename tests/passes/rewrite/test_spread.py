from __future__ import annotations

import pytest
from torch import nn

from mhc_compile.config import Config
from mhc_compile.errors import ParallelError
from mhc_compile.kernels.formulas.connections import CONNECTIONS
from mhc_compile.kernels.operators import sharded
from mhc_compile.passes.order import make_plan, rewrite_graph
from mhc_compile.passes.rewrite.spread import let_spread
from mhc_compile.programs.specs import initial_sites
from mhc_compile.twin.hyper_connections import HyperConnections
from tests.passes.graphs import traced
from tests.passes.layers import tokens
from tests.toy_models import Block

REFUSED = [name for name, row in CONNECTIONS.items() if row.sources]


def rewritten(connection):
    model = nn.Sequential(Block(8), Block(8), Block(8)).double().eval()
    gm, config = traced(model, tokens(), front_end="symbolic"), Config(connection=connection)
    plan = make_plan(gm, config)
    gm.add_module("hyper_connections", HyperConnections(initial_sites([plan], config, model), config))
    return rewrite_graph(gm, plan, config).graph


@pytest.mark.parametrize("connection", sorted(CONNECTIONS.keys() - {"residual", *REFUSED}))
def test_every_function_of_a_rewrite_gets_a_form_for_distributed_tensors(connection):
    graph = rewritten(connection)
    let_spread(graph, list)
    ours = {n.target.__module__ for n in graph.nodes if "kernels.operators" in str(getattr(n.target, "__module__", ""))}
    assert ours == {sharded.__name__}


@pytest.mark.parametrize("connection", REFUSED)
def test_a_function_without_one_is_refused_where_gradients_would_not_be_added_up(connection):
    with pytest.raises(ParallelError, match=r"\w+ is not for tensors that are distributed"):
        let_spread(rewritten(connection), list)
