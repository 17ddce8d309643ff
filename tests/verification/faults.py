"""Faults to be found: in the rewrite, in what is done to the graph before, and in PyTorch's trace."""

from __future__ import annotations

import pytest
import torch
from torch import fx

from mhc_compile.model import modes
from mhc_compile.passes import order
from mhc_compile.verification import culprit


def break_rewrite(monkeypatch: pytest.MonkeyPatch) -> None:
    rewrite = order.rewrite_planned
    monkeypatch.setattr(order, "rewrite_planned", lambda gm, *rest: _swap_activation(rewrite(gm, *rest)))


def break_normalise(monkeypatch: pytest.MonkeyPatch) -> None:
    normalise = order.normalise
    monkeypatch.setattr(order, "normalise", lambda gm: _swap_activation(normalise(gm)))


def break_trace(monkeypatch: pytest.MonkeyPatch) -> None:
    capture = modes.capture

    def captured(*args, **kwargs):
        found = capture(*args, **kwargs)
        _swap_activation(found.gm)
        return found

    for place in (modes, culprit):
        monkeypatch.setattr(place, "capture", captured)


def _swap_activation(gm: fx.GraphModule) -> fx.GraphModule:
    """A fault in the first block."""
    node = next(n for n in gm.graph.nodes if "relu" in str(n.target))
    node.target = torch.sigmoid if node.op == "call_function" else node.target
    node.kwargs = {}
    return gm
