"""Coefficients without a call: those of streams that are zero, which biases alone decide."""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import Tensor, nn

from mhc_compile._torch_compat import is_cut
from mhc_compile.config import Config
from mhc_compile.diagnostics.collector import Seen
from mhc_compile.diagnostics.tokens import alikeness, coefficients_of
from mhc_compile.passes.plan.data import Plan
from mhc_compile.twin.hyper_connections import HyperConnections


def parameters_of(module: nn.Module) -> list[Tensor]:
    """The parameters of a site in the order in which the formulas take them, whole also where they are sharded."""
    return [p.full_tensor() if is_cut(p) else p for p in module.parameters()]  # type: ignore[attr-defined]


def at_rest(child: HyperConnections, plans: Sequence[Plan], config: Config) -> dict[str, Seen]:
    """What the sites of these plans would compute from one token whose streams are zero: what biases alone decide."""
    found: dict[str, Seen] = {}
    for site in (site for plan in plans for site in plan.sites):
        if site.key in found or (config.streams > 1 and site.key not in child):
            continue
        params = parameters_of(child[site.key]) if site.key in child else []
        like = params[0] if params else torch.zeros((), dtype=torch.float32)
        rows = like.new_zeros(config.streams, 1, site.channels)
        with torch.no_grad():
            pre, post, R = coefficients_of(rows, params, config.effective_connection, config.streams)
            found[site.key] = Seen(1, pre, post, R, pre, *alikeness(rows, config.streams))
    return found
