"""torchtitan's language models with hyper-connections, for its own trainer.

    torchrun ... -m torchtitan.train --module mhc_compile.torchtitan --config llama3_debugmodel_mhc

or, in a registry of your own, `spec = mhc_compile.torchtitan.with_hyper_connections(model_registry("8B"), n=4)`.
"""

from __future__ import annotations

import copy
import functools
import types
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import replace
from typing import Any

import torch
from torch import nn

from mhc_compile import pipeline
from mhc_compile.errors import MissingPackageError, NothingToTransformError, ParallelError
from mhc_compile.model.reset import reset_parameters
from mhc_compile.model.stage import StageInfo
from mhc_compile.passes.split.partition import Crossing
from mhc_compile.programs.ownership import Served
from mhc_compile.programs.variants import trace_ahead
from mhc_compile.transform import transform

try:
    import torchtitan.models.deepseek_v3 as deepseek_v3
    import torchtitan.models.llama3 as llama3
    import torchtitan.models.qwen3 as qwen3
    from torchtitan.components.loss import CrossEntropyLoss
    from torchtitan.models.common.attention import ScaledDotProductAttention
    from torchtitan.models.common.config_utils import decoder_vocab_size
    from torchtitan.models.common.moe import RoutedExperts
    from torchtitan.models.common.token_dispatcher import BaseEPTokenDispatcher, LocalTokenDispatcher
    from torchtitan.protocols.model_spec import ModelSpec
    from torchtitan.trainer import Trainer
except ImportError as error:
    raise MissingPackageError(f"{error}: write pip install torchtitan==0.3.0") from error

__all__ = ["with_hyper_connections"]

_OF_DISPATCHER = ("dispatch", "combine")
_LENGTH = 16
"""Of the sequences that a model is traced with; sizes stay open."""


def with_hyper_connections(spec: ModelSpec, n: int = 4, **options: Any) -> ModelSpec:
    """The specification of the same model with hyper-connections.

    The model is transformed on the meta device, before torchtitan parallelises it, and new parameters get their initial
    values in its `init_weights`. Everything else is that of `spec`.

    Args:
        spec: of a decoder with an inner attention that takes no mask object (`ScaledDotProductAttention`).
        n: number of streams.
        **options: those of `mhc_compile.transform`.

    Returns:
        A specification for `Trainer.Config(model_spec=...)`.
    """
    added = functools.partial(_transformed, n=n, options=options)
    parallelize, pipelining = spec.parallelize_fn, spec.pipelining_fn
    return replace(
        spec,
        flavor=f"{spec.flavor}-mhc",
        parallelize_fn=functools.partial(_parallelize, parallelize, added),
        pipelining_fn=pipelining and functools.partial(_pipeline, pipelining, parallelize, added),
    )


def _parallelize(parallelize: Any, added: Any, model: nn.Module, *, parallelism: Any, **others: Any) -> nn.Module:
    """What takes the place of `parallelize_fn`."""
    _check_backend(parallelism)
    transformed, dims = added(model), others["parallel_dims"]
    if dims.tp_enabled or dims.cp_enabled or dims.ep_enabled:
        with _tokens_stay(transformed):
            trace_ahead(transformed, *_example(transformed))
    parallelised: nn.Module = parallelize(transformed, parallelism=parallelism, **others)
    return parallelised


def _check_backend(parallelism: Any) -> None:
    if parallelism.spmd_backend != "partial_dtensor":
        raise ParallelError(
            f"spmd_backend={parallelism.spmd_backend!r} does not say which tensors are sharded in a way that "
            "hyper-connections can ask for: write --parallelism.spmd_backend partial_dtensor"
        )


def _example(model: nn.Module, batch: int = 2) -> tuple[tuple[torch.Tensor], dict[str, torch.Tensor]]:
    device = next(model.parameters()).device
    tokens = torch.zeros(batch, _LENGTH, dtype=torch.long, device=device)
    return (tokens,), {"positions": torch.arange(_LENGTH, device=device).expand(batch, -1).contiguous()}


def _transformed(model: nn.Module, *, n: int, options: dict[str, Any]) -> Served:
    """The model with hyper-connections that torchtitan's methods know of; one that has them already as it is."""
    if not isinstance(model, Served):
        tokens, keywords = _example(model)
        with _tokens_stay(model):
            model = transform(model, n, example_inputs=tokens, example_kwargs=keywords, modes=("train",), **options)
    if not isinstance(model, Served):
        raise NothingToTransformError(f"{type(model).__name__} has no residual connection that options leave in")
    _teach(model)
    return model


@contextmanager
def _tokens_stay(model: nn.Module) -> Iterator[None]:
    """While the model is traced, experts keep their tokens: those who send them know no processes yet."""
    found = [m.token_dispatcher for m in model.modules() if isinstance(m, RoutedExperts)]
    sending = [dispatcher for dispatcher in found if isinstance(dispatcher, BaseEPTokenDispatcher)]
    for dispatcher in sending:
        for name in _OF_DISPATCHER:
            vars(dispatcher)[name] = types.MethodType(getattr(LocalTokenDispatcher, name), dispatcher)
    try:
        yield
    finally:
        for dispatcher in sending:
            for name in _OF_DISPATCHER:
                del vars(dispatcher)[name]


def _teach(model: nn.Module) -> None:
    """Methods of the instance, so that copies have their own."""
    vars(model).update(
        init_weights=types.MethodType(_init_weights, model), parallelize=types.MethodType(_distribute, model)
    )


def _init_weights(model: Any, **options: Any) -> None:
    type(model).init_weights(model, **options)
    reset_parameters(model)


def _distribute(model: Any, parallel_dims: Any) -> None:
    """What takes the place of `parallelize`: clipping wants new parameters on the mesh that the others are on."""
    from torch.distributed.tensor import distribute_module

    type(model).parallelize(model, parallel_dims)
    mesh = parallel_dims.get_optional_mesh("tp")
    if mesh is not None:
        distribute_module(model.hyper_connections, mesh)


# --- stages ------------------------------------------------------------------------------------------------------


def _pipeline(pipelining: Any, parallelize: Any, added: Any, model: nn.Module, **others: Any) -> Any:
    """What takes the place of `pipelining_fn`: torchtitan shares out layers, and streams cross the borders."""
    dims, parallelism = others["parallel_dims"], others["parallelism"]
    _check_backend(parallelism)
    if dims.tp_enabled or dims.ep_enabled or dims.cp_enabled:
        raise ParallelError(
            "a pipeline of stages with hyper-connections works with data parallelism alone: write "
            "--parallelism.pipeline_parallel_degree 1, or leave tensor, context and expert parallelism at 1"
        )
    whole = added(model)
    names = [name for name, child in _parts(model)]

    def parallelize_part(part: nn.Module, **options: Any) -> Any:
        own, size = [name for name, _ in _parts(part)], parallelism.pipeline_parallel_microbatch_size
        stage = _stage(copy.deepcopy(whole), names, own, size)  # a process may have several, parallelised one by one
        return parallelize(stage, **options)

    return pipelining(model, **{**others, "parallelize_fn": parallelize_part})


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
    tokens, keywords = _example(whole, batch)
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
    _teach(part)
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


# --- configurations ----------------------------------------------------------------------------------------------


def _config(config: Trainer.Config, registry: Any) -> Trainer.Config:
    spec = registry.model_registry("debugmodel")
    for layer in spec.model.layers:
        layer.attention.inner_attention = ScaledDotProductAttention.Config()
    config.model_spec = with_hyper_connections(spec)
    config.loss = CrossEntropyLoss.Config(global_vocab_size=decoder_vocab_size(spec))
    config.parallelism.spmd_backend = "partial_dtensor"
    config.training.disable_cuda_graphs = True
    return config


def llama3_debugmodel_mhc() -> Trainer.Config:
    """The configuration `llama3_debugmodel` with hyper-connections and `ScaledDotProductAttention`."""
    from torchtitan.models.llama3.config_registry import llama3_debugmodel

    return _config(llama3_debugmodel(), llama3)


def qwen3_debugmodel_mhc() -> Trainer.Config:
    """The configuration `qwen3_debugmodel` with hyper-connections and `ScaledDotProductAttention`."""
    from torchtitan.models.qwen3.config_registry import qwen3_debugmodel

    return _config(qwen3_debugmodel(), qwen3)


def deepseek_v3_debugmodel_mhc() -> Trainer.Config:
    """The configuration `deepseek_v3_debugmodel` with hyper-connections and `ScaledDotProductAttention`."""
    from torchtitan.models.deepseek_v3.config_registry import deepseek_v3_debugmodel

    return _config(deepseek_v3_debugmodel(), deepseek_v3)
