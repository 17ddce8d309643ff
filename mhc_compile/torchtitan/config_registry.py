"""Ready-made configurations for `--config`."""

from __future__ import annotations

from dataclasses import replace
from typing import Any

from torchtitan.components.loss import CrossEntropyLoss
from torchtitan.models.common.attention import ScaledDotProductAttention
from torchtitan.models.common.config_utils import decoder_vocab_size
from torchtitan.trainer import Trainer

from mhc_compile.torchtitan.checkpoints import with_checks
from mhc_compile.torchtitan.spec import with_hyper_connections

_UNDECAYED = r"(^|\.)hyper_connections\..*\.(?!(phi|w_res|down|up|inject)$)[^.]+$"
"""Names of the new parameters that do not decay, see `mhc_compile.parameter_groups`."""


def configured(config: Trainer.Config, n: int = 4, **options: Any) -> Trainer.Config:
    """A configuration of a language model of torchtitan's, changed so that it trains with hyper-connections.

    The specification is that of `with_hyper_connections`. The inner attention is `ScaledDotProductAttention`, which
    sees all that stands before a token, across the borders of packed documents too; the loss is `CrossEntropyLoss`.

    Args:
        config: such as `llama3_8b()` of `torchtitan.models.llama3.config_registry`; it is changed.
        n: number of streams.
        **options: those of `mhc_compile.transform`.

    Returns:
        The same configuration.
    """
    spec: Any = config.model_spec
    for layer in spec.model.layers:
        layer.attention.inner_attention = ScaledDotProductAttention.Config()
    config.model_spec = with_hyper_connections(spec, n, **options)
    config.loss = CrossEntropyLoss.Config(global_vocab_size=decoder_vocab_size(spec))
    config.parallelism.spmd_backend = "partial_dtensor"
    config.training.disable_cuda_graphs = True
    config.checkpoint = with_checks(config.checkpoint)
    (every,) = config.optimizer.param_groups
    spared = {**every.optimizer_kwargs, "weight_decay": 0.0}
    config.optimizer.param_groups = [replace(every, pattern=_UNDECAYED, optimizer_kwargs=spared), every]
    return config


def llama3_debugmodel_mhc() -> Trainer.Config:
    """The configuration `llama3_debugmodel` with hyper-connections and `ScaledDotProductAttention`."""
    from torchtitan.models.llama3.config_registry import llama3_debugmodel

    return configured(llama3_debugmodel())


def qwen3_debugmodel_mhc() -> Trainer.Config:
    """The configuration `qwen3_debugmodel` with hyper-connections and `ScaledDotProductAttention`."""
    from torchtitan.models.qwen3.config_registry import qwen3_debugmodel

    return configured(qwen3_debugmodel())


def deepseek_v3_debugmodel_mhc() -> Trainer.Config:
    """The configuration `deepseek_v3_debugmodel` with hyper-connections and `ScaledDotProductAttention`."""
    from torchtitan.models.deepseek_v3.config_registry import deepseek_v3_debugmodel

    return configured(deepseek_v3_debugmodel())
