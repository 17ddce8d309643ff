"""One plan for each graph that Dynamo makes of a model, with keys that do not clash between them."""

from __future__ import annotations

from collections.abc import Iterator, MutableMapping, Sequence
from dataclasses import dataclass, replace
from fnmatch import fnmatchcase
from typing import TYPE_CHECKING

from torch import fx, nn

from mhc_compile.config import Config
from mhc_compile.dynamo_graph import OpenGraph, open_graph
from mhc_compile.dynamo_model import Origin
from mhc_compile.errors import DDPOptimizerError, GraphBreakError, PatternError
from mhc_compile.owner import Transformed
from mhc_compile.transform import warn_of_nothing

if TYPE_CHECKING:
    from mhc_compile.passes.plan import Plan

RESUMED = "torch_dynamo_resume_in_"
"""How Dynamo calls the rest of a function behind a graph break."""

Claims = MutableMapping[str, tuple[str, ...]]
"""Frame -> the keys its graph uses, in the order in which the frames were first seen."""


@dataclass(frozen=True)
class GraphRecord:
    """What was found in one graph.

    Attributes:
        origin: where it was traced, and the graph break at its end.
        plan: sites and rejected adds of this graph.
    """

    origin: Origin
    plan: Plan

    @property
    def whole(self) -> bool:
        """Whether no graph break cuts the function at either end."""
        resumed = self.origin.frame.rpartition(":")[2].startswith(RESUMED)
        return not resumed and not self.origin.break_reason

    @property
    def left_out(self) -> list[str]:
        """Keys of the sites that `include` and `exclude` left out."""
        from mhc_compile.passes.plan import Reason

        return [r.detail for r in self.plan.rejected if r.reason is Reason.EXCLUDED]


def examine(
    gm: fx.GraphModule, origin: Origin, model: nn.Module, config: Config, claims: Claims
) -> tuple[OpenGraph, GraphRecord]:
    """Plan one graph of Dynamo's on a copy of it.

    A module used in several graphs gets one key per use, as in one graph: `claims` knows the keys of the graphs seen
    before, and is extended. The same frame traced again (another shape, another mode) gets the same keys.
    Residual adds inside a part that `mhc_compile.transform` made are left out: its graph holds the streams already.
    """
    from mhc_compile.passes.pipeline import make_plan

    taken = list(_claimed_before(claims, origin.frame))
    opened = open_graph(gm, model)
    everything = replace(config, include=(), exclude=())
    plan = make_plan(opened.gm, everything, taken)
    keys = [site.key for site in plan.sites]
    claims[origin.frame] = tuple(dict.fromkeys((*claims.get(origin.frame, ()), *keys)))
    left_out = [key for key in keys if not _wanted(key, config)] + _rewritten_already(opened.gm, plan)
    if left_out:
        plan = make_plan(opened.gm, replace(everything, exclude=tuple(left_out)), taken)
    return opened, GraphRecord(origin, plan)


def check_cut(origin: Origin, config: Config) -> None:
    """Refuse a graph that was cut where streams must not be.

    Raises:
        DDPOptimizerError: DDPOptimizer cut it.
        GraphBreakError: it ends at a graph break, under `strict=True`.
    """
    if origin.break_reason.startswith("DDPOptimizer"):
        raise DDPOptimizerError(
            "DDPOptimizer cut the model into buckets before the backend saw it, and streams cannot cross its cuts: "
            "write torch._dynamo.config.optimize_ddp = False, or raise bucket_cap_mb of DistributedDataParallel"
        )
    if config.strict and origin.break_reason:
        raise GraphBreakError(
            f"the graph of {origin.frame} breaks at {origin.break_location}: {origin.break_reason}\n"
            "Streams would be reduced there and expanded after it: remove the break, or write strict=False"
        )


def check_found(records: Sequence[GraphRecord], config: Config) -> None:
    """Check all graphs of a model together.

    Raises:
        PatternError: an `include` or `exclude` glob matches no site of any graph.
        NothingToTransformError: there is no site in any, under `strict=True`; else a warning says so.
    """
    known = [site.key for record in records for site in record.plan.sites] + [k for r in records for k in r.left_out]
    for pattern in (*config.include, *config.exclude):
        if not any(fnmatchcase(key, pattern) for key in known):
            raise PatternError(f"{pattern!r} matches no site: the sites are {', '.join(known[:5]) or 'none'}")
    if records and not any(record.plan.sites for record in records):
        warn_of_nothing(records[0].plan, config)


def _claimed_before(claims: Claims, frame: str) -> Iterator[str]:
    for other, keys in claims.items():
        if other == frame:
            return
        yield from keys


def _wanted(key: str, config: Config) -> bool:
    included = not config.include or any(fnmatchcase(key, glob) for glob in config.include)
    return included and not any(fnmatchcase(key, glob) for glob in config.exclude)


def _rewritten_already(gm: fx.GraphModule, plan: Plan) -> list[str]:
    inside = {n.name for n in gm.graph.nodes if any(issubclass(kind, Transformed) for kind in _classes(n))}
    return [site.key for site in plan.sites if site.add in inside]


def _classes(node: fx.Node) -> list[type]:
    return [kind for _, kind in (node.meta.get("nn_module_stack") or {}).values() if isinstance(kind, type)]
