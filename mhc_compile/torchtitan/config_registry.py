"""Ready-made configurations for `--config`."""

from __future__ import annotations

from dataclasses import replace
from typing import Any

import torchtitan.models.deepseek_v3 as deepseek_v3
import torchtitan.models.llama3 as llama3
import torchtitan.models.qwen3 as qwen3
from torchtitan.components.loss import CrossEntropyLoss
from torchtitan.models.common.attention import ScaledDotProductAttention
from torchtitan.models.common.config_utils import decoder_vocab_size
from torchtitan.trainer import Trainer

from mhc_compile.torchtitan.checkpoints import with_checks
from mhc_compile.torchtitan.spec import with_hyper_connections

_UNDECAYED = r"(^|\.)hyper_connections\..*\.(?!(phi|w_res)$)[^.]+$"
"""Names of the new parameters that rest at other values than zero, see `mhc_compile.parameter_groups`."""


def _config(config: Trainer.Config, registry: Any) -> Trainer.Config:
    spec = registry.model_registry("debugmodel")
    for layer in spec.model.layers:
        layer.attention.inner_attention = ScaledDotProductAttention.Config()
    config.model_spec = with_hyper_connections(spec)
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

    return _config(llama3_debugmodel(), llama3)


def qwen3_debugmodel_mhc() -> Trainer.Config:
    """The configuration `qwen3_debugmodel` with hyper-connections and `ScaledDotProductAttention`."""
    from torchtitan.models.qwen3.config_registry import qwen3_debugmodel

    return _config(qwen3_debugmodel(), qwen3)


def deepseek_v3_debugmodel_mhc() -> Trainer.Config:
    """The configuration `deepseek_v3_debugmodel` with hyper-connections and `ScaledDotProductAttention`."""
    from torchtitan.models.deepseek_v3.config_registry import deepseek_v3_debugmodel

    return _config(deepseek_v3_debugmodel(), deepseek_v3)
