"""One plan for each graph that Dynamo makes of a model, with keys that do not clash between them."""

from __future__ import annotations

import warnings
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING, Any

from torch import fx, nn

from mhc_compile import _torch_compat as compat
from mhc_compile.config import Config
from mhc_compile.dynamo.breaks import warn_of_segments
from mhc_compile.dynamo.frame import Origin, is_model_state
from mhc_compile.dynamo.graph_form import OpenGraph, open_graph
from mhc_compile.dynamo.holders import check_owner, check_parts
from mhc_compile.dynamo.new_parameters import Claims, connections_of
from mhc_compile.errors import (
    CaptureError,
    DDPOptimizerError,
    GraphBreakError,
    LooseWeightsWarning,
    PatternError,
    PatternWarning,
    RecompileLimitWarning,
)
from mhc_compile.programs.coverage import BROKEN_BRANCH, stay_plain
from mhc_compile.programs.nothing_found import warn_of_nothing
from mhc_compile.programs.ownership import Served

if TYPE_CHECKING:
    from mhc_compile.passes.plan.data import Plan, Rejection


@dataclass(frozen=True)
class GraphRecord:
    """What was found in one graph.

    Attributes:
        origin: where it was traced, and the graph break at its end.
        plan: sites and rejected adds of this graph.
        read: names of the parameters and buffers in it.
    """

    origin: Origin
    plan: Plan
    read: frozenset[str] = frozenset()

    @property
    def left_out(self) -> list[str]:
        """Keys of the sites that `include` and `exclude` left out."""
        from mhc_compile.passes.plan.reasons import Reason  # late

        return [r.detail for r in self.plan.rejected if r.reason is Reason.EXCLUDED]

    @property
    def found(self) -> list[str]:
        """Keys of all sites, with those that were left out."""
        return [site.key for site in self.plan.sites] + self.left_out


def examine(
    gm: fx.GraphModule, inputs: Sequence[Any], origin: Origin, model: nn.Module, config: Config, claims: Claims,
    others: Sequence[Plan] = (),
) -> tuple[OpenGraph, GraphRecord]:  # fmt: skip
    """Plan one graph of Dynamo's, called with `inputs`, on a copy of it.

    A module used on both sides of a graph break gets one key per use, as in one graph: `claims` knows the keys used
    before the break, and is extended. A frame traced again (another shape, another mode) gets the same keys, as a model
    and its parts do that are traced by themselves, and its segments end where those of `others` do.
    Residual adds inside a part that `mhc_compile.transform` made are left out: its graph holds the streams already.
    """
    from mhc_compile.passes.order import make_plan  # late
    from mhc_compile.passes.plan.keys import common_path, module_of  # late

    opened = open_graph(gm, inputs, model)
    frame = f"{origin.frame}({common_path(map(module_of, opened.inputs))})"
    origin = replace(origin, frame=frame)
    parts = claims.setdefault(origin.function, {})
    taken = list(_taken_before(parts, origin))
    everything = replace(config, include=(), exclude=())
    child = connections_of(model)
    known = list(child.weights.items()) if child is not None else []
    plan = make_plan(opened.gm, everything, taken, known, others=others)
    keys = [site.key for site in plan.sites]
    parts[frame] = tuple(dict.fromkeys((*parts.get(frame, ()), *(keys if origin.break_reason else ()))))
    left_out: list[str] = []
    while more := _unwanted(opened.gm, plan, config, model, origin):  # what a site left out displaced comes back
        left_out += more
        plan = make_plan(opened.gm, replace(everything, exclude=tuple(left_out)), taken, known, others=others)
    check_owner(model, opened, plan)
    check_parts(model)
    plan = _with_a_backward_of_its_own(plan) if origin.custom_backward else plan
    plan = _cut_by_a_break(opened.gm, plan) if origin.partial else plan
    return opened, GraphRecord(origin, plan, frozenset(opened.inputs))


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
    if config.strict and not origin.whole:
        breaks = f"breaks at {origin.break_location}: {origin.break_reason}"
        what = breaks if origin.break_reason else "lies behind a break"
        raise GraphBreakError(
            f"the graph of {origin.frame} {what}\n"
            "Streams are reduced at a graph break and expanded after it: remove the break, or write strict=False"
        )


def warn_of_limit(gm: fx.GraphModule) -> None:
    """Warn at the last graph Dynamo makes of a function: what comes next runs uncompiled, and so without streams."""
    number = getattr(gm.meta.get("dynamo_compile_id"), "frame_compile_id", None)
    limit = compat.dynamo_config.recompile_limit
    if number is not None and number + 1 >= limit and not compat.dynamo_config.fail_on_recompile_limit_hit:
        warnings.warn(
            f"Dynamo has compiled this function {limit} times and will run any other kind of call uncompiled, that is, "
            "without hyper-connections: write torch._dynamo.config.recompile_limit = 64, or "
            "torch._dynamo.config.fail_on_recompile_limit_hit = True to have an error instead",
            RecompileLimitWarning,
            stacklevel=2,
        )


def warn_of_loose_weights(gm: fx.GraphModule) -> None:
    """Warn of layers whose weights come from nowhere: no site is found without knowing what is a weight."""
    layers = (nn.Linear, nn.Conv1d, nn.Conv2d, nn.Conv3d)
    runs_layers = any(issubclass(kind, layers) for node in gm.graph.nodes for kind in _classes(node))
    inputs = [n for n in gm.graph.find_nodes(op="placeholder") if isinstance(n.meta.get("example_value"), nn.Parameter)]
    if runs_layers and not any(map(is_model_state, inputs)):  # buffers are where they always were
        warnings.warn(
            "a compiled function runs layers with weights that belong to no model, as torch.func.functional_call does, "
            "so their residual connections are left alone: compile the model, and write functional_call(compiled, ...)",
            LooseWeightsWarning,
            stacklevel=2,
        )


def warn_of_unmatched(records: Sequence[GraphRecord], config: Config) -> None:
    """Warn of an `include` or `exclude` glob that matches no site of these graphs, which may not be all."""
    problem = _unmatched(records, config)
    if problem:
        warnings.warn(f"{problem}. backend.attach(model, example_inputs) makes this an error", PatternWarning, 2)


def check_found(records: Sequence[GraphRecord], config: Config) -> None:
    """Check all graphs of a model together.

    Raises:
        PatternError: an `include` or `exclude` glob matches no site of any graph.
        NothingToTransformError: there is no site in any, under `strict=True`; else a warning says so.
        GraphBreakError: there is no graph, under `strict=True`; else a CaptureError.
    """
    if not records:
        raise no_graph(config)
    warn_of_segments(record.origin for record in records)
    problem = _unmatched(records, config)
    if problem:
        raise PatternError(problem)
    if not any(record.plan.sites for record in records):
        warn_of_nothing(records[0].plan, config)


def no_graph(config: Config, mode: str = "") -> CaptureError:
    """The error where Dynamo made nothing of a model (in one mode), which mostly is because of a graph break."""
    kind = GraphBreakError if config.strict else CaptureError
    return kind(
        f"Dynamo made no graph of the model{f' in {mode} mode' if mode else ''}: a graph break inside a loop of its "
        "forward, or inside a checkpointed block, makes Dynamo leave the whole function alone (mhc_compile.explain "
        "names the line). Otherwise check that torch.compile is not disabled and that the model computes on tensors"
    )


def _taken_before(parts: Mapping[str, tuple[str, ...]], origin: Origin) -> Iterator[str]:
    """What the parts of the same function in front of this one use."""
    for frame, keys in parts.items() if origin.resumed else ():
        if frame == origin.frame:
            return
        yield from keys


def _unmatched(records: Sequence[GraphRecord], config: Config) -> str:
    from mhc_compile.passes.plan.patterns import unmatched  # late

    return unmatched(config, [key for record in records for key in record.found])


def _cut_by_a_break(gm: fx.GraphModule, plan: Plan) -> Plan:
    """The plan, with a remark where an operand of an add comes from outside a graph that does not hold the whole call.

    Only then may the other operand be its branch, with the break inside.
    """
    from mhc_compile.passes.plan.reasons import Reason  # late

    outer = {n.name for n in gm.graph.nodes if any(operand.op == "placeholder" for operand in n.all_input_nodes)}

    def remarked(r: Rejection) -> Rejection:
        unclear = r.reason in (Reason.NOT_ANCESTOR, Reason.NO_WEIGHT) and r.add in outer and not r.detail
        return replace(r, detail=BROKEN_BRANCH) if unclear else r

    return replace(plan, rejected=tuple(map(remarked, plan.rejected)))


def _with_a_backward_of_its_own(plan: Plan) -> Plan:
    """The plan of code in an autograd function, whose sites were all left out, with the reason."""
    from mhc_compile.passes.plan.reasons import Reason  # late

    def told(r: Rejection) -> Rejection:
        return replace(r, reason=Reason.CUSTOM_BACKWARD) if r.reason is Reason.EXCLUDED else r

    return replace(plan, rejected=tuple(map(told, plan.rejected)))


def _unwanted(gm: fx.GraphModule, plan: Plan, config: Config, model: nn.Module, origin: Origin) -> list[str]:
    from mhc_compile.passes.plan.patterns import is_chosen  # late

    if origin.custom_backward:
        return [site.key for site in plan.sites]

    inside = _rewritten_already(gm, plan, model)
    if isinstance(model, Served):
        inside += stay_plain(model, plan)
    return [site.key for site in plan.sites if site.key in inside or not is_chosen(site.key, config)]


def _rewritten_already(gm: fx.GraphModule, plan: Plan, model: nn.Module) -> list[str]:
    """Sites inside a part that `transform` made; the model itself is one where its fallback is compiled."""

    def is_part(kind: type) -> bool:
        return issubclass(kind, Served) and kind is not type(model)

    inside = {n.name for n in gm.graph.nodes if any(map(is_part, _classes(n)))}
    return [site.key for site in plan.sites if site.add in inside]


def _classes(node: fx.Node) -> list[type]:
    return [kind for _, kind in (node.meta.get("nn_module_stack") or {}).values() if isinstance(kind, type)]
