"""The passes one after the other, on one model: what `inspect --rewrites` shows."""

from __future__ import annotations

import time
from collections import Counter
from dataclasses import dataclass
from difflib import get_close_matches, unified_diff
from typing import Any

from torch import nn

from mhc_compile.capture.inputs import missing_inputs, resolve_inputs
from mhc_compile.capture.trace import capture
from mhc_compile.capture.wrapped import reject_wrapped
from mhc_compile.config import Config
from mhc_compile.errors import InvalidOptionError, NothingToTransformError
from mhc_compile.passes.history import GAP, PASSES, History, PassRecord, around
from mhc_compile.passes.order import make_plan, rewrite_graph
from mhc_compile.passes.plan.data import Plan, Site
from mhc_compile.programs.untransformed import check_untransformed
from mhc_compile.report.collapse import collapse


@dataclass(frozen=True)
class Rewrites:
    """How one graph came from a model to its rewritten form.

    Attributes:
        seconds: that tracing took.
        records: what each pass did, in order.
        plan: what was decided on the way.
        site: the one to look at.
    """

    seconds: float
    records: tuple[PassRecord, ...]
    plan: Plan
    site: Site

    @property
    def own(self) -> frozenset[str]:
        """Names of the model's own nodes around the site."""
        site = self.site
        return frozenset({*site.adds, *site.lifts, *site.branches, site.skip, site.base}) | site.branch_nodes

    def around(self, record: PassRecord, *, after: bool) -> tuple[str, ...]:
        """The graph around the site, before or after a pass."""
        return around(record.after if after else record.before, self.site.key, self.own)

    def changes(self, record: PassRecord) -> tuple[str, ...]:
        """The lines around the site: `-` is gone, `+` is new, two spaces stay; empty if nothing changed there."""
        before, after = self.around(record, after=False), self.around(record, after=True)
        diff = list(unified_diff(before, after, lineterm="", n=max(len(before), len(after))))[3:]
        return tuple(f"{line[0]} {line[1:]}" for line in diff if line not in (f"+{GAP}", f"-{GAP}"))

    def to_dict(self) -> dict[str, Any]:
        """Plain dicts, lists, strings and numbers."""
        return {
            "site": self.site.key,
            "capture_seconds": self.seconds,
            "passes": [
                {
                    "name": record.name,
                    "does": PASSES[record.name],
                    "seconds": record.seconds,
                    "nodes": len(record.after),
                    "added": record.added,
                    "removed": record.removed,
                    "changed": record.changed,
                    "before": self.around(record, after=False),
                    "after": self.around(record, after=True),
                }
                for record in self.records
            ],
        }


def watch_rewrites(
    model: nn.Module, config: Config, site: str = "", *, example_inputs: Any = None, example_kwargs: Any = None
) -> Rewrites:
    """Trace a model and run every pass on its graph, watched. The model is not changed.

    Args:
        model: in the mode to trace; may be on the meta device.
        config: options of the rewrite.
        site: key of the site to look at; "" for the first one of those that are repeated most.
        example_inputs: as for `transform`.
        example_kwargs: as for `transform`.

    Raises:
        NothingToTransformError: there is no site.
        InvalidOptionError: there is no site of this key.
        CaptureError: the model is no one graph.
    """
    reject_wrapped(check_untransformed(model))
    inputs = resolve_inputs(model, example_inputs, example_kwargs)
    if inputs is None:
        raise missing_inputs(model, "the passes work on a graph")
    start = time.perf_counter()
    gm = capture(model, inputs.args, inputs.kwargs).gm
    seconds = time.perf_counter() - start
    history = History()
    plan = make_plan(gm, config, watch=history)
    found = _site(plan, site)
    rewrite_graph(gm, plan, config, history)
    return Rewrites(seconds, tuple(history.records), plan, found)


def typical_site(plan: Plan) -> Site:
    """A site of those that are repeated most; the second of them, for the first begins a segment."""
    groups = Counter({group.label: len(group.sites) for group in collapse(plan.sites)})
    label = groups.most_common(1)[0][0]
    sites = next(group.sites for group in collapse(plan.sites) if group.label == label)
    return sites[min(1, len(sites) - 1)]


def _site(plan: Plan, key: str) -> Site:
    if not plan.sites:
        raise NothingToTransformError("there is no residual add that can be rewritten, so no pass rewrites anything")
    if not key:
        return typical_site(plan)
    if key not in {site.key for site in plan.sites}:
        near = get_close_matches(key, [site.key for site in plan.sites], n=3)
        hint = f"did you mean {' or '.join(near)}?" if near else "write the key of a site from the report."
        raise InvalidOptionError(f"there is no site {key!r}: {hint}")
    return plan.site(key)
