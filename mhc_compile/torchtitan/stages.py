"""Stages of a pipeline that torchtitan shares out: parts with its own interface, over whose borders streams go."""

from __future__ import annotations

import copy
import types
from collections.abc import Callable, Mapping, Sequence
from typing import Any

import torch
from torch import nn
from torchtitan.distributed import pipeline_parallel as titan

from mhc_compile import pipeline
from mhc_compile.errors import ParallelError
from mhc_compile.model.stage import StageInfo
from mhc_compile.passes.split.partition import Crossing
from mhc_compile.torchtitan.model import example, teach
from mhc_compile.twin.hyper_connections import CHILD

_ENDS = (("tok_embeddings",), ("norm", "lm_head"))
CHUNKED = "ChunkedLossWrapper calls the head itself: write loss=CrossEntropyLoss.Config(...)"


def shares_of(options: Mapping[str, Any]) -> list[list[str]]:
    """Names of the modules of every stage, given or found as torchtitan finds them; by what its function is given."""
    parallelism = options["parallelism"]
    if parallelism.module_fqns_per_model_part is not None:
        return list(parallelism.module_fqns_per_model_part)
    found = titan._get_pipeline_metadata(options["parallel_dims"], parallelism, options["model_config"])
    return titan._generate_llm_fqn_per_model_part(*found)


def check_shares(whole: nn.Module, shares: Sequence[Sequence[str]]) -> None:
    """Refuse stages that are no runs of layers: streams go from one to the next.

    Raises:
        ParallelError: a module is in no stage, in two, or out of its order; or a stage has no layer.
    """
    names = [name for name, _ in _parts(whole)]
    known = {"layers", CHILD, *(name for group in _ENDS for name in group)}
    others = [name for name, child in whole.named_children() if name not in known and [*child.parameters()]]
    if others:
        raise ParallelError(f"{', '.join(others)} would be in no stage: write --parallelism.pipeline_parallel_degree 1")
    if [name for own in shares for name in own] != names:
        raise ParallelError(
            f"the stages {list(map(list, shares))} are no runs of layers, and streams go from one to the next: write "
            f"module_fqns_per_model_part with {', '.join(names)} in this order, each once"
        )
    for own in shares:
        if not any(name.startswith("layers.") for name in own):
            raise ParallelError(
                f"a stage of {', '.join(own)} alone has no residual connection, so streams would only pass through it: "
                "write fewer stages, or module_fqns_per_model_part with at least one layer in each"
            )


def pipeline_stages(whole: nn.Module, batch: int, dtype: torch.dtype) -> Callable[[nn.Module], nn.Module]:
    """From a part that torchtitan has cut out to the stage in its place.

    Args:
        whole: the transformed model, before anything is cut.
        batch: size of a microbatch.
        dtype: in which `fully_shard` will show the parameters.
    """
    names = [name for name, _ in _parts(whole)]

    def stage(part: nn.Module) -> nn.Module:
        own = [name for name, _ in _parts(part)]
        # A process may have several, parallelised one by one.
        return _stage(copy.deepcopy(whole), names, own, batch, dtype)

    return stage


def _parts(model: nn.Module) -> list[tuple[str, nn.Module]]:
    """The modules that torchtitan shares out, in the order in which they run."""
    layers = [(f"layers.{name}", layer) for name, layer in model.get_submodule("layers").named_children()]
    first, last = ([(n, getattr(model, n)) for n in names] for names in _ENDS)
    return [(name, child) for name, child in (*first, *layers, *last) if child is not None]


def _stage(whole: nn.Module, names: Sequence[str], own: Sequence[str], batch: int, dtype: torch.dtype) -> nn.Module:
    """A part of the transformed model with torchtitan's own interface, over the modules of the whole.

    Args:
        whole: the transformed model.
        names: of its parts, in order.
        own: of the parts of this stage.
        batch: size of a microbatch.
        dtype: of the parameters that the stage runs with, beside their own.
    """
    begin, end = names.index(own[0]), names.index(own[-1]) + 1
    at = [names[i] for i in (begin, end) if 0 < i < len(names)]
    stage = _split(whole, at, batch)[1 if begin else 0]
    info = stage.mhc_stage
    if {p.dtype for p in whole.parameters() if p.is_floating_point()} != {dtype}:
        cast = _cast(copy.deepcopy(whole), dtype)
        info.programs += _split(cast, at, batch)[1 if begin else 0].mhc_stage.programs
    if any(sum(not _crosses(c) for c in crossings) > 1 for crossings in (info.receives, info.sends)):
        raise ParallelError("more than the positions and floating point tensors would cross a border of the stages")
    part = object.__new__(type(whole))
    vars(part).update(vars(whole))
    layers = stage.get_submodule("layers")
    kept = {"layers": layers, "hyper_connections": stage.hyper_connections}
    modules = {name: child if name in own else kept.get(name) for name, child in whole._modules.items()}
    vars(part).update(_modules=modules, _mhc_stage=(stage,), forward=types.MethodType(_run_stage, part))
    teach(part)
    return part


def _split(whole: nn.Module, at: Sequence[str], batch: int) -> list[Any]:
    tokens, keywords = example(whole, batch)
    return pipeline.split(whole, at, example_inputs=tokens, example_kwargs=keywords, modes=("train", "eval"))


def _cast(model: nn.Module, dtype: torch.dtype) -> nn.Module:
    """With parameters, not buffers, as `fully_shard` shows them."""
    for parameter in model.parameters():
        if parameter.is_floating_point():
            parameter.data = parameter.data.to(dtype)
    return model


def _run_stage(part: Any, *args: Any, **kwargs: Any) -> Any:
    """The forward of a part; torchtitan hands keyword arguments to every stage, and the first passes them on."""
    (stage,) = part._mhc_stage
    stage.training = part.training  # it is no child of the part, which has its modules
    if part._skip_lm_head:
        raise ParallelError(CHUNKED)
    info = stage.mhc_stage
    if not info.index:
        return _sent(info, stage(*args, **kwargs))
    floats = iter(args)
    return _sent(info, stage(*(next(floats) if _crosses(c) else kwargs["positions"] for c in info.receives)))


def _sent(info: StageInfo, output: Any) -> Any:
    """What a stage sends: without positions, which torchtitan hands to every stage."""
    if len(info.sends) < 2:
        return output
    values = tuple(value for value, crossing in zip(output, info.sends, strict=True) if _crosses(crossing))
    return values[0] if len(values) == 1 else values


def _crosses(crossing: Crossing) -> bool:
    """Whether a tensor has to be sent. PyTorch tries stages on values without meaning, which are no positions."""
    return crossing.dtype.is_floating_point
