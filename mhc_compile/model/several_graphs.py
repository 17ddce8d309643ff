"""The plan of a model that is no one graph: what Dynamo makes of a call, put together."""

from __future__ import annotations

import copy
from collections.abc import Iterator, Sequence
from dataclasses import replace
from typing import TYPE_CHECKING

from torch import nn

from mhc_compile.capture.inputs import Inputs
from mhc_compile.config import Config
from mhc_compile.errors import CaptureError, InputMismatchError, KeywordNameError, MhcError, NoGraphError

if TYPE_CHECKING:
    from mhc_compile.passes.plan.data import Plan, Segment, Site


def in_several_graphs(error: CaptureError) -> bool:
    """Whether Dynamo may still run what could not be captured in one graph."""
    return not isinstance(error, (InputMismatchError, KeywordNameError))


def plan_in_parts(model: nn.Module, inputs: Inputs, config: Config, mode: str, error: CaptureError) -> Plan:
    """What `mhc_compile.backend` finds in a call of `model`, which is run for it, with its state put back.

    Args:
        model: in any mode.
        inputs: of the call.
        config: options of the rewrite.
        mode: `train` or `eval`.
        error: why it could not be captured in one graph.

    Raises:
        CaptureError: neither front end can do it; a `NoGraphError` if the code runs, but nothing can be rewritten.
        GraphBreakError: there is a graph break, under `strict=True`.
    """
    from mhc_compile.dynamo.survey import survey  # late

    try:
        records = survey(model, inputs.args, copy.copy(inputs.kwargs), config, {}, (mode,))
    except MhcError:
        raise
    except Exception as failure:
        raise CaptureError(f"{error}\nmhc_compile.backend cannot run it either: {failure}") from failure
    if not records:
        raise NoGraphError(f"{error}\nmhc_compile.backend makes no graph of it either") from error
    why = str(error).partition("\n")[0]
    note = f"calls run through Dynamo, in {len(records)} graphs, because one graph cannot hold them: {why}"
    return merged([record.plan for record in records], note)


def merged(plans: Sequence[Plan], note: str) -> Plan:
    """The plans of several graphs of one model as one; a site that several of them hold is listed once."""
    return replace(
        plans[0],
        sites=tuple(_sites(plans)),
        rejected=tuple(r for plan in plans for r in plan.rejected),
        segments=tuple(_segments(plans)),
        float_adds=sum(plan.float_adds for plan in plans),
        nodes=sum(plan.nodes for plan in plans),
        steps=tuple(step for plan in plans for step in plan.steps),
        notes=(*dict.fromkeys(n for plan in plans for n in plan.notes), note),
    )


def _sites(plans: Sequence[Plan]) -> Iterator[Site]:
    seen: set[str] = set()
    for site in (site for plan in plans for site in plan.sites):
        if site.key not in seen:
            seen.add(site.key)
            yield site


def _segments(plans: Sequence[Plan]) -> Iterator[Segment]:
    seen: set[str] = set()
    number = 0
    for segment in (segment for plan in plans for segment in plan.segments):
        if not seen.issuperset(segment.sites):
            yield replace(segment, index=number)
            number += 1
        seen.update(segment.sites)
