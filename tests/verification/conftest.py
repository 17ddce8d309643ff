"""Faults to be found: in the rewrite, and in PyTorch's trace."""

from __future__ import annotations

import pytest
import torch
from torch import fx

from mhc_compile.model import modes
from mhc_compile.passes import order


def swap_activation(gm: fx.GraphModule) -> fx.GraphModule:
    """A fault in the first block."""
    node = next(n for n in gm.graph.nodes if "relu" in str(n.target))
    node.target = torch.sigmoid if node.op == "call_function" else node.target
    node.kwargs = {}
    return gm


@pytest.fixture
def wrong_rewrite(monkeypatch):
    rewrite = order.rewrite_planned
    monkeypatch.setattr(order, "rewrite_planned", lambda gm, *rest: swap_activation(rewrite(gm, *rest)))


@pytest.fixture
def wrong_trace(monkeypatch):
    capture = modes.capture

    def captured(*args, **kwargs):
        found = capture(*args, **kwargs)
        swap_activation(found.gm)
        return found

    monkeypatch.setattr(modes, "capture", captured)
