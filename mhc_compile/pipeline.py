"""Cut a transformed model into the stages of a pipeline, for `torch.distributed.pipelining`.

    stages = mhc_compile.pipeline.split(model, at=["blocks.6"], example_inputs=(x,))
    stage = PipelineStage(stages[rank], rank, len(stages), device)
    schedule = Schedule1F1B(stage, n_microbatches=8, loss_fn=loss_fn)

Between two stages the residual streams travel as one tensor `[n, ...]`.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING, Any

import torch
from torch import nn

from mhc_compile._torch_compat import tree_flatten
from mhc_compile.capture.input_spec import AnyTensor, InputSpec
from mhc_compile.capture.inputs import Inputs, missing_inputs, resolve_inputs
from mhc_compile.capture.side_effects import describe_effects
from mhc_compile.capture.trace import Captured, capture
from mhc_compile.config import MODES, check_modes
from mhc_compile.errors import (
    CaptureError,
    CutOrderError,
    InvalidOptionError,
    NotTransformedError,
    SharedParameterError,
    StageOutputError,
)
from mhc_compile.model.stage import Stage, StageInfo, module_state
from mhc_compile.programs.coverage import check_parameters
from mhc_compile.programs.ownership import Served
from mhc_compile.programs.plain_twin import disown
from mhc_compile.programs.program import Program, build_program
from mhc_compile.programs.variants import plan_of, training_mode
from mhc_compile.twin.hyper_connections import CHILD
from mhc_compile.twin.looks import for_trace

if TYPE_CHECKING:
    from mhc_compile.passes.split.partition import StageGraph

__all__ = ["Stage", "split"]


@dataclass(frozen=True)
class _Trace:
    """The graphs of all stages for one kind of call; `training` is the flag all modules had, None for their own."""

    training: bool | None
    captured: Captured
    graphs: list[StageGraph]


def split(
    model: nn.Module,
    at: Sequence[str] | str,
    *,
    example_inputs: Sequence[Any] | Any | None = None,
    example_kwargs: Mapping[str, Any] | None = None,
    modes: Sequence[str] = MODES,
) -> list[Stage]:
    """Cut a transformed model in front of some of its modules.

    Every stage holds only the parameters it uses, under their names, and takes what the stage before returns: the
    residual streams as one tensor `[n, ...]`, and further tensors where other values cross. What can be computed from
    sizes and buffers, such as a causal mask, is computed in every stage instead. A parameter that no stage uses goes
    where its neighbours are.

    Args:
        model: made by `mhc_compile.transform`. It stays usable, and shares parameters with the stages; to free those
            of other stages, keep only one stage.
        at: paths of the modules that begin a new stage, `["blocks.6"]` for two stages, in the order they run.
        example_inputs: positional inputs of the model to trace with; sizes of batch and sequence stay open.
        example_kwargs: keyword inputs.
        modes: trace for `"train"`, `"eval"` or both.

    Returns:
        One module per stage. In one process, calling one after another computes what the model does. They may be moved
        to other devices, `to_empty` included, but not cast.

    Raises:
        NotTransformedError: `model` was not made by `transform`.
        MissingInputsError: no inputs were given, and the model declares none.
        UnknownCutError, CutOrderError, BranchCutError: `at` does not fit the model.
        SharedParameterError, SharedWriteError, UnsentValueError: the model cannot be cut there.
        StageOutputError: the model returns neither a tensor nor a tuple or list of tensors.
        CaptureError: as for `transform`.
    """
    if not isinstance(model, Served):
        raise NotTransformedError(
            f"{type(model).__name__} was not made by mhc_compile.transform: write "
            "mhc_compile.pipeline.split(mhc_compile.transform(model, ...), at=...)"
        )
    at = _check_at(at)
    inputs = resolve_inputs(disown(model), example_inputs, example_kwargs)
    if inputs is None:
        raise missing_inputs(disown(model), "split traces the model again")
    traces = [trace for mode in check_modes(modes) for trace in _trace(model, inputs, mode, at)]
    _check_outputs(model, traces)
    names = _share_out(model, traces, len(at) + 1)
    return [_build(model, index, names, traces) for index in range(len(names))]


def _check_at(at: Sequence[str] | str) -> tuple[str, ...]:
    names = (at,) if isinstance(at, str) else tuple(at)
    if not all(isinstance(name, str) for name in names):
        raise InvalidOptionError(f"at={at!r}: write paths of modules, for example at=['blocks.6']")
    if not names:
        raise CutOrderError("at is empty, so there would be one stage: write the model itself")
    return names


def _check_outputs(model: Served, traces: Sequence[_Trace]) -> None:
    for spec in (trace.captured.out_spec for trace in traces):
        flat = spec.type in (tuple, list) and spec.num_nodes == spec.num_leaves + 1
        if not (spec.is_leaf() or flat):
            name = model._mhc.original.__name__
            raise StageOutputError(
                f"{name} returns a {spec.type.__name__} of its outputs, and torch.distributed.pipelining takes one "
                "tensor or a tuple of tensors: transform a module around it that returns what the loss needs, for "
                f"example with forward(self, ids): return self.model(ids).logits; its modules are called model.{{name}}"
            )


def _trace(model: Served, inputs: Inputs, mode: str, at: Sequence[str]) -> list[_Trace]:
    """Trace one mode; twice if the graph depends on whether gradients are on."""
    training = None if model.training == (mode == "train") else mode == "train"
    with training_mode(model, training):
        traces = [_trace_once(model, inputs, training, at)]
        if traces[0].captured.grad_mode:
            with torch.no_grad():
                traces.append(_trace_once(model, inputs, training, at))
    return traces


def _trace_once(model: Served, inputs: Inputs, training: bool | None, at: Sequence[str]) -> _Trace:
    from mhc_compile.passes.order import rewrite_stages  # late

    config = model._mhc.config
    captured = capture(disown(model, for_trace), inputs.args, inputs.kwargs)
    if captured.effects:
        raise CaptureError(
            f"a call changes {describe_effects(captured.effects)}, and a stage of a pipeline computes its outputs and "
            "nothing else: return what is to be kept, or write it into a buffer with copy_()"
        )
    plan = plan_of(captured, config)
    check_parameters(model, plan)
    captured.gm.add_module(CHILD, model.hyper_connections)
    return _Trace(training, captured, rewrite_stages(captured.gm, plan, config, at))


# --- who owns what -----------------------------------------------------------------------------------------------


def _share_out(model: Served, traces: Sequence[_Trace], count: int) -> list[set[str]]:
    """The names of the parameters and buffers of each stage. Every one of the model is in one stage at least."""
    aliases = _aliases(model)
    names: list[set[str]] = [set() for _ in range(count)]
    for trace in traces:
        for index, graph in enumerate(trace.graphs):
            for node in graph.gm.graph.nodes:
                if node.op == "get_attr":
                    names[index].update(aliases.get(str(node.target), ()))
    _check_shared(model, names)
    used = [set(of_stage) for of_stage in names]
    for name in aliases:
        if not any(name in of_stage for of_stage in used):
            names[_nearest(name, used)].add(name)
    return names


def _aliases(model: nn.Module) -> dict[str, list[str]]:
    """Each name of a parameter or buffer, and all names of the same tensor."""
    both = (*model.named_parameters(remove_duplicate=False), *model.named_buffers(remove_duplicate=False))
    groups: dict[int, list[str]] = {}
    for name, tensor in both:
        groups.setdefault(id(tensor), []).append(name)
    return {name: groups[id(tensor)] for name, tensor in both}


def _check_shared(model: nn.Module, names: Sequence[set[str]]) -> None:
    aliases = _aliases(model)
    for name, _ in model.named_parameters():
        stages = [str(index) for index, of_stage in enumerate(names) if name in of_stage]
        if len(stages) > 1:
            tied = [other for other in aliases[name] if other != name]
            also = f" (also called {', '.join(tied)})" if tied else ""
            untie = f"model.{tied[-1]} = nn.Parameter(model.{tied[-1]}.detach().clone())" if tied else ""
            raise SharedParameterError(
                f"the parameter {name}{also} is used in stages {' and '.join(stages)}, whose copies would drift apart: "
                f"cut so that all its uses lie in one stage{f', or untie it before transforming: {untie}' * bool(tied)}"
            )


def _nearest(name: str, names: Sequence[set[str]]) -> int:
    """The stage that uses most of the path of a parameter that no stage uses."""
    parts = name.split(".")
    for depth in range(len(parts) - 1, 0, -1):
        prefix = ".".join(parts[:depth]) + "."
        for index, of_stage in enumerate(names):
            if any(other.startswith(prefix) for other in of_stage):
                return index
    return 0


# --- putting stages together -------------------------------------------------------------------------------------


def _build(model: Served, index: int, names: Sequence[set[str]], traces: Sequence[_Trace]) -> Stage:
    graph = traces[0].graphs[index]
    elsewhere = frozenset().union(*names) - names[index]
    stage = Stage(model, names[index], StageInfo(index, len(names), graph.receives, graph.sends, elsewhere))
    for trace in traces:
        with training_mode(stage, trace.training):
            program = _program(stage, trace.captured, trace.graphs[index])
            stage.mhc_stage.programs.append((module_state(stage), program))
    return stage


def _program(stage: Stage, captured: Captured, graph: StageGraph) -> Program:
    info = stage.mhc_stage
    spec = _received(graph) if info.index else captured.input_spec.on_any_device()
    out = captured.out_spec if info.index == info.count - 1 else _returned(graph)
    own = replace(captured, gm=graph.gm, input_spec=spec, out_spec=out)
    return build_program(own, graph.gm, stage)


def _received(graph: StageGraph) -> InputSpec:
    count = len(graph.receives)
    tree = tree_flatten((tuple(range(count)), {}))[1]
    return InputSpec(tree, (AnyTensor(),) * count, (), lambda: True, "True")


def _returned(graph: StageGraph) -> Any:
    """One tensor as it is, several as a tuple."""
    return tree_flatten(tuple(range(len(graph.sends))) if len(graph.sends) != 1 else 0)[1]
