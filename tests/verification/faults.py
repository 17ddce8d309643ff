"""Faults to be found: in the rewrite, and in PyTorch's trace."""

from __future__ import annotations

import pytest
import torch
from torch import fx

from mhc_compile.model import modes
from mhc_compile.passes import order


def break_rewrite(monkeypatch: pytest.MonkeyPatch) -> None:
    rewrite = order.rewrite_planned
    monkeypatch.setattr(order, "rewrite_planned", lambda gm, *rest: _swap_activation(rewrite(gm, *rest)))


def break_trace(monkeypatch: pytest.MonkeyPatch) -> None:
    capture = modes.capture

    def captured(*args, **kwargs):
        found = capture(*args, **kwargs)
        _swap_activation(found.gm)
        return found

    monkeypatch.setattr(modes, "capture", captured)


def _swap_activation(gm: fx.GraphModule) -> fx.GraphModule:
    """A fault in the first block."""
    node = next(n for n in gm.graph.nodes if "relu" in str(n.target))
    node.target = torch.sigmoid if node.op == "call_function" else node.target
    node.kwargs = {}
    return gm
