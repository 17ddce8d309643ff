"""The passes in order: normalise, detect, plan; then rewrite. A dry run stops after the plan."""

from __future__ import annotations

from torch import fx

from mhc_compile.config import Config
from mhc_compile.passes.ancestry import Ancestry
from mhc_compile.passes.checkpoints import inline_checkpoints, outline_checkpoints
from mhc_compile.passes.normalise import normalise
from mhc_compile.passes.plan import Plan
from mhc_compile.passes.planner import plan_graph
from mhc_compile.passes.rewrite import rewrite_planned


def make_plan(gm: fx.GraphModule, config: Config) -> Plan:
    """Plan the rewrite of a traced graph; nodes carry fake values in `meta["val"]` or `meta["example_value"]`.

    The graph is normalised in place (in-place writes become functional, checkpointed bodies are inlined); what it
    computes does not change.

    Raises:
        PatternError: an `include` or `exclude` glob matches no site.
    """
    inline_checkpoints(gm)
    return plan_graph(Ancestry(normalise(gm)), config)


def rewrite_graph(gm: fx.GraphModule, plan: Plan, config: Config) -> fx.GraphModule:
    """Apply the plan to the normalised graph it was made from, in place. Recompiled, but not linted: see rewrite.py."""
    rewrite_planned(gm, plan, config)
    outline_checkpoints(gm)
    gm.recompile()
    return gm
