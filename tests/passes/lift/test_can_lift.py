"""Which operators can be lifted, and which of them are linear."""

from __future__ import annotations

import pytest
import torch
import torch.nn.functional as F
from torch import fx

from mhc_compile.passes.graph.ancestry import Ancestry
from mhc_compile.passes.lift.lifting import can_lift, is_linear
from tests.passes.graphs import build
from tests.passes.layers import Net2
from tests.passes.lift.lifted import X, op_alone

REFUSED = {
    "softmax over no axis in particular": lambda x: torch.nn.functional.softmax(x, None),
    "standard deviation of everything": lambda x: x.std(False),
    "two lists as index": lambda x: x[torch.tensor([0, 1]), :, torch.tensor([1, 2])],
    "padding with what is there": lambda x: F.pad(x, (1, 1), mode="reflect"),
    "squeeze of whatever there is": lambda x: x[:1].squeeze(),
    "several values": lambda x: x.chunk(2, -1)[0],
    "matrix product": lambda x: x @ torch.eye(4, dtype=x.dtype),
    "pooling": lambda x: F.avg_pool1d(x, 2),
    "reduction of everything": lambda x: x.mean(),
    "batch norm": lambda x: F.batch_norm(x, torch.zeros(3), torch.ones(3)),
    "broadcast to more axes": lambda x: x * torch.ones(2, 2, 3, 4, dtype=x.dtype),
    "bytes": lambda x: x.view(torch.int64),
    "bytes with keyword": lambda x: x.view(dtype=torch.int64),
}


@pytest.mark.parametrize("name", REFUSED)
def test_can_lift_rejects_what_mixes_tokens_or_changes_axes(name):
    graph, last = op_alone(REFUSED[name], X)
    assert not can_lift(graph, last, [0])


def test_can_lift_rejects_what_depends_on_an_unknown_rank():
    gm = fx.symbolic_trace(Net2(lambda m, x, y: (x * 2.0, torch.relu(x), x * y, x.view(-1), x.mean(-1, keepdim=True))))
    graph = Ancestry(gm)
    calls = [i for i, n in enumerate(graph.nodes) if n.op.startswith("call")]
    assert [can_lift(graph, i, [0]) for i in calls] == [True, True, False, False, False]


LINEAR_OPS = {
    "scale": (lambda x: x * 2.0, True),
    "quotient": (lambda x: x / 2.0, True),
    "quotient, rounded down": (lambda x: torch.div(x, 2.0, rounding_mode="floor"), False),
    "quotient, rounded to zero": (lambda x: x.div(2.0, rounding_mode="trunc"), False),
    "whole quotient": (lambda x: x // 2.0, False),
    "rest of a division": (lambda x: x % 2.0, False),
    "reciprocal": (lambda x: torch.div(2.0 * torch.ones_like(x), x), False),
    "cast": (lambda x: x.float(), True),
    "transposition": (lambda x: x.transpose(0, 1), True),
    "shift": (lambda x: x + torch.ones(4, dtype=x.dtype), True),
    "dropout": (lambda x: F.dropout(x, 0.0), True),
    "mask": (lambda x: torch.where(torch.ones(4).bool(), x, 0.0), True),
    "cut": (lambda x: x[:, 1:], True),
    "softmax": (lambda x: torch.softmax(x, -1), False),
    "square": (lambda x: x * x, False),
    "activation": (lambda x: torch.relu(x), False),
    "norm": (lambda x: F.layer_norm(x, (4,)), False),
}


@pytest.mark.parametrize("name", LINEAR_OPS)
def test_is_linear_tells_case_a_from_case_b(name):
    fn, expected = LINEAR_OPS[name]
    graph, last = op_alone(fn, X)
    assert is_linear(graph, last, [0]) is expected


def test_a_gate_computed_from_the_stream_is_not_linear():
    gm = build(lambda g, x: g.call_function(torch.mul, (x, g.call_function(torch.sigmoid, (x,)))), x=X)
    graph = Ancestry(gm)
    assert not is_linear(graph, 2, [0, 1])
