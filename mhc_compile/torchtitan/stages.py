"""Stages of a pipeline that torchtitan shares out: parts with its own interface, over whose borders streams go."""

from __future__ import annotations

import copy
import types
from collections.abc import Callable, Sequence
from typing import Any

from torch import nn

from mhc_compile import pipeline
from mhc_compile.errors import ParallelError
from mhc_compile.model.stage import StageInfo
from mhc_compile.passes.split.partition import Crossing
from mhc_compile.torchtitan.model import example, teach


def pipeline_stages(whole: nn.Module, batch: int) -> Callable[[nn.Module], nn.Module]:
    """From a part that torchtitan has cut out to the stage in its place.

    Args:
        whole: the transformed model, before anything is cut.
        batch: size of a microbatch.
    """
    names = [name for name, _ in _parts(whole)]

    def stage(part: nn.Module) -> nn.Module:
        own = [name for name, _ in _parts(part)]
        return _stage(copy.deepcopy(whole), names, own, batch)  # a process may have several, parallelised one by one

    return stage


def _parts(model: nn.Module) -> list[tuple[str, nn.Module]]:
    """The modules that torchtitan shares out, in the order in which they run."""
    layers = [(f"layers.{name}", layer) for name, layer in model.get_submodule("layers").named_children()]
    first, last = ([(n, getattr(model, n)) for n in names] for names in (("tok_embeddings",), ("norm", "lm_head")))
    return [(name, child) for name, child in (*first, *layers, *last) if child is not None]


def _stage(whole: nn.Module, names: Sequence[str], own: Sequence[str], batch: int) -> nn.Module:
    """A part of the transformed model with torchtitan's own interface, over the modules of the whole.

    Args:
        whole: the transformed model.
        names: of its parts, in order.
        own: of the parts of this stage.
        batch: size of a microbatch.
    """
    begin, end = names.index(own[0]), names.index(own[-1]) + 1
    at = [names[i] for i in (begin, end) if 0 < i < len(names)]
    if not any(name.startswith("layers.") for name in own):
        raise ParallelError(
            f"a stage of {', '.join(own)} alone has no residual connection, so streams would only pass through it: "
            "write fewer stages, or module_fqns_per_model_part with at least one layer in each"
        )
    tokens, keywords = example(whole, batch)
    stages = pipeline.split(whole, at, example_inputs=tokens, example_kwargs=keywords, modes=("train",))
    stage = stages[1 if begin else 0]
    info = stage.mhc_stage
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


def _run_stage(part: Any, *args: Any, **kwargs: Any) -> Any:
    """The forward of a part; torchtitan hands keyword arguments to every stage, and the first passes them on."""
    (stage,) = part._mhc_stage
    if part._skip_lm_head:
        raise ParallelError("ChunkedLossWrapper calls the head itself: write loss=CrossEntropyLoss.Config(...)")
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
