"""A specification of torchtitan's, and the same with hyper-connections."""

from __future__ import annotations

import functools
from collections.abc import Mapping
from dataclasses import dataclass, field, fields, replace
from typing import Any

from torch import nn
from torchtitan.components.loss import ChunkedLossWrapper
from torchtitan.config import TORCH_DTYPE_MAP
from torchtitan.protocols.model_spec import ModelSpec

from mhc_compile.errors import AlreadyTransformedError, ParallelError
from mhc_compile.programs.variants import trace_ahead
from mhc_compile.torchtitan.model import example, mixing_operations, tokens_stay, transformed
from mhc_compile.torchtitan.names import adapter_with_new_names
from mhc_compile.torchtitan.stages import CHUNKED, check_shares, pipeline_stages, shares_of


def with_hyper_connections(spec: ModelSpec, n: int = 4, **options: Any) -> ModelSpec:
    """The specification of the same model with hyper-connections.

    Its configuration builds a transformed model, on the meta device in torchtitan's trainer, and new parameters get
    their initial values in `init_weights`. torchtitan then parallelises it, or shares its layers out to stages. What it
    counts and what it converts for Hugging Face has the new parameters in it.

    Args:
        spec: of a decoder with an inner attention that takes no mask object (`ScaledDotProductAttention`).
        n: number of streams.
        **options: those of `mhc_compile.transform`.

    Returns:
        A specification for `Trainer.Config(model_spec=...)`.

    Raises:
        AlreadyTransformedError: it is such a specification.
    """
    if hasattr(spec.model, "stream_options"):
        raise AlreadyTransformedError(
            f"{spec.flavor} has hyper-connections (n={spec.model.streams}) already: give torchtitan's own"
        )
    pipelining, adapter = spec.pipelining_fn, spec.state_dict_adapter
    return replace(
        spec,
        flavor=f"{spec.flavor}-mhc",
        model=_with_streams(spec.model, n, options),
        parallelize_fn=functools.partial(_parallelize, spec.parallelize_fn, n, options),
        pipelining_fn=pipelining and functools.partial(_pipeline, pipelining, spec.parallelize_fn, n, options),
        state_dict_adapter=adapter and adapter_with_new_names(adapter),
    )


def _with_streams(config: Any, n: int, options: Mapping[str, Any]) -> Any:
    """The configuration of a model, which builds it with streams."""
    kind: Any = type(config)
    values = {f.name: getattr(config, f.name) for f in fields(config)}
    return _config_with_streams(kind)(**values, streams=n, stream_options=dict(options))


@functools.cache
def _config_with_streams(kind: Any) -> Any:
    @dataclass(kw_only=True, slots=True)
    class Config(kind):  # type: ignore[misc]
        streams: int = 4
        stream_options: dict[str, Any] = field(default_factory=dict)

        def build(self, **kwargs: Any) -> nn.Module:
            model = kind.build(self, **kwargs)  # with slots, `super()` means another class
            model.verify_module_protocol()
            return transformed(model, n=self.streams, options=self.stream_options)

        def get_nparams_and_flops(self, model: nn.Module, seq_len: int) -> tuple[int, int]:
            parameters, operations = kind.get_nparams_and_flops(self, model, seq_len)
            return parameters, operations + mixing_operations(model)

    return Config


def _parallelize(
    parallelize: Any, n: int, options: Mapping[str, Any], model: nn.Module, *, parallelism: Any, **others: Any
) -> nn.Module:
    """What takes the place of `parallelize_fn`."""
    check_backend(parallelism)
    model, dims = transformed(model, n=n, options=options), others["parallel_dims"]
    if dims.tp_enabled or dims.cp_enabled or dims.ep_enabled:
        sizes = (2, 1) if others["training"].local_batch_size == 1 else (2,)  # one sequence is a case apart
        with tokens_stay(model):
            trace_ahead(model, [example(model, size) for size in sizes])
    parallelised: nn.Module = parallelize(model, parallelism=parallelism, **others)
    return parallelised


def _pipeline(
    pipelining: Any, parallelize: Any, n: int, options: Mapping[str, Any], model: nn.Module, **others: Any
) -> Any:
    """What takes the place of `pipelining_fn`: torchtitan shares out layers, and streams cross the borders.

    What cannot be is refused before anything is cut, on every process: one that went on would wait for the others.
    """
    dims, parallelism = others["parallel_dims"], others["parallelism"]
    check_backend(parallelism)
    if dims.tp_enabled or dims.ep_enabled or dims.cp_enabled:
        raise ParallelError(
            "a pipeline of stages with hyper-connections works with data parallelism alone: write "
            "--parallelism.pipeline_parallel_degree 1, or leave tensor, context and expert parallelism at 1"
        )
    if isinstance(others["loss_fn"], ChunkedLossWrapper):
        raise ParallelError(CHUNKED)
    whole = transformed(model, n=n, options=options)
    check_shares(whole, shares_of(others))
    dtype = TORCH_DTYPE_MAP[others["training"].mixed_precision_param]
    stage = pipeline_stages(whole, parallelism.pipeline_parallel_microbatch_size, dtype)

    def parallelize_part(part: nn.Module, **keywords: Any) -> Any:
        return parallelize(stage(part), **keywords)

    return pipelining(model, **{**others, "parallelize_fn": parallelize_part})


def check_backend(parallelism: Any) -> None:
    """Refuse what does not say which tensors are sharded.

    Raises:
        ParallelError: another backend than `partial_dtensor`.
    """
    if parallelism.spmd_backend != "partial_dtensor":
        raise ParallelError(
            f"spmd_backend={parallelism.spmd_backend!r} does not say which tensors are sharded in a way that "
            "hyper-connections can ask for: write --parallelism.spmd_backend partial_dtensor"
        )
