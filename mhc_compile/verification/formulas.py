"""The oracle for a plan, whichever kind of state it has."""

from __future__ import annotations

from torch import fx

from mhc_compile.config import Config
from mhc_compile.passes.plan.data import Plan
from mhc_compile.passes.sources.lists import keeps_sources
from mhc_compile.verification.oracle import ByKey, Oracle
from mhc_compile.verification.sources_oracle import SourcesOracle


def formulas_of(gm: fx.GraphModule, plan: Plan, config: Config, parameters: ByKey) -> fx.Interpreter:
    """What computes by the formulas of a plan what its rewritten graph must: `run(*inputs)`.

    Args:
        gm: the normalised graph, not rewritten.
        plan: made from it.
        config: the options of the plan.
        parameters: `hyper_connections` of the rewritten model.
    """
    kind = SourcesOracle if keeps_sources(config) else Oracle
    return kind(gm, plan, config, parameters)
