"""What the backend would do to a model: which graphs Dynamo makes of it, where they break, which sites they hold."""

from __future__ import annotations

import json
import re
from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass
from functools import cached_property
from typing import Any

from torch import nn

from mhc_compile.breaks import remark_on
from mhc_compile.capture import capture
from mhc_compile.config import Config
from mhc_compile.errors import CaptureError, GraphBreakError
from mhc_compile.graphs import GraphRecord
from mhc_compile.inputs import resolve_inputs
from mhc_compile.passes.plan import Plan, Rejection, Site
from mhc_compile.survey import survey
from mhc_compile.untransformed import check_module
from mhc_compile.wording import count_text, short_location

_PLACE = re.compile(r"into one graph(?: at (\S+:\d+) in [^:]*)?: (.*)")
"""How an error of the capture tells where it happened."""


@dataclass(frozen=True)
class Break:
    """One graph break: streams are reduced in front of it and expanded after it.

    Attributes:
        reason: what Dynamo could not trace.
        location: `file:line`.
        count: how many graphs end there.
        remark: what runs without hyper-connections behind it, and what to write instead; "" for most breaks.
    """

    reason: str
    location: str
    count: int = 1
    remark: str = ""


@dataclass(frozen=True)
class Explanation:
    """What was found in each graph of one call of a model. `str()` is a plain text report.

    Attributes:
        graphs: one record per graph; a graph that serves several modules has one for each.
        breaks: the graph breaks, in the order in which they were met.
    """

    graphs: tuple[GraphRecord, ...]
    breaks: tuple[Break, ...]

    @cached_property
    def sites(self) -> tuple[Site, ...]:
        """The sites of all graphs, each key once."""
        return tuple({site.key: site for plan in self.plans for site in plan.sites}.values())

    @property
    def rejected(self) -> tuple[Rejection, ...]:
        """The float adds of all graphs that are left alone."""
        return tuple(rejection for plan in self.plans for rejection in plan.rejected)

    @property
    def plans(self) -> tuple[Plan, ...]:
        """The plan of each graph."""
        return tuple(record.plan for record in self.graphs)

    def headline(self) -> str:
        """How many graphs, breaks, sites and adds left alone."""
        breaks = sum(b.count for b in self.breaks)
        return ", ".join(
            (
                count_text(len(self.graphs), "graph"),
                count_text(breaks, "graph break"),
                count_text(len(self.sites), "site"),
                f"{count_text(len(self.rejected), 'other add')}",
            )
        )

    def to_json(self, indent: int | None = 2) -> str:
        """Graphs with their plans (docs/plan_schema.md), and breaks, as JSON."""
        graphs = [{**asdict(record.origin), "plan": record.plan.to_dict()} for record in self.graphs]
        return json.dumps({"graphs": graphs, "breaks": [asdict(b) for b in self.breaks]}, indent=indent)

    def __str__(self) -> str:
        lines = [self.headline()]
        for b in self.breaks:
            lines.append(f"break at {b.location or 'an unknown place'} (x{b.count}): {b.reason}")
            lines += [f"  {b.remark}"] if b.remark else []
        for i, record in enumerate(self.graphs):
            lines.append(f"graph {i}: {short_location(record.origin.frame)}")
            lines += [f"  {line}" for line in str(record.plan).splitlines()]
        return "\n".join(lines)


def explain(model: nn.Module, *args: Any, **kwargs: Any) -> Explanation:
    """What `torch.compile(model, backend=mhc_compile.backend())` would find in `model(*args, **kwargs)`.

    The model is run once, uncompiled, in the mode it is in. Its buffers and the random generators are put back; other
    state that its own code changes, such as a list that it appends to, is not. For other options than the defaults
    write `mhc_compile.backend(n=2).explain(model, ...)`.

    Raises:
        MhcError: as for `transform`, except that graph breaks are reported.
    """
    return explain_call(model, args, kwargs, Config())


def explain_call(
    model: nn.Module, args: Sequence[Any] | None, kwargs: Mapping[str, Any] | None, config: Config
) -> Explanation:
    """The same with options; without `args` and `kwargs`, the inputs that the model declares."""
    model = check_module(getattr(model, "_orig_mod", model))
    mode = "train" if model.training else "eval"
    records = survey(model, args, kwargs, config, {}, (mode,))
    breaks = _located_breaks(records)
    if not breaks and (not records or any(record.origin.partial for record in records)):
        breaks = _first_break(model, args, kwargs)
    return Explanation(records, breaks)


def _located_breaks(records: Sequence[GraphRecord]) -> tuple[Break, ...]:
    origins = (record.origin for record in records if record.origin.break_reason)
    found = Counter((_first_line(o.break_reason), o.break_location, remark_on(o.break_reason)) for o in origins)
    return tuple(Break(reason, location, count, remark) for (reason, location, remark), count in found.items())


def _first_break(model: nn.Module, args: Any, kwargs: Any) -> tuple[Break, ...]:
    """A break in a loop makes Dynamo leave the whole function, and no graph tells where: tracing in one graph does."""
    inputs = resolve_inputs(model, args, kwargs)
    assert inputs is not None, "the survey needed inputs as well"
    try:
        capture(model, inputs.args, inputs.kwargs)
    except GraphBreakError as error:
        found = _PLACE.search(_first_line(str(error)))
        location, reason = found.groups("") if found else ("", _first_line(str(error)))
        return (Break(reason, location, remark=remark_on(str(error))),)
    except CaptureError as error:
        return (Break(_first_line(str(error)), ""),)
    return (Break("Dynamo left the function around some graphs uncompiled", ""),)


def _first_line(text: str) -> str:
    return text.strip().splitlines()[0] if text.strip() else ""
