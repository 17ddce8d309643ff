"""The layouts, and what torchtitan is told of them."""

from __future__ import annotations

import importlib
import types
from dataclasses import dataclass
from typing import Any

import torch

FAMILIES = ("llama3", "qwen3", "deepseek_v3")
DEPTH, BATCH, LENGTH = 4, 4, 32
"""Layers that are left of a debug model; sequences and tokens of a step."""


@dataclass(frozen=True)
class Layout:
    """Degrees of each kind of parallelism."""

    fsdp: int = 1
    tp: int = 1
    sequence: bool = False
    cp: int = 1
    ep: int = 1
    pp: int = 1
    schedule: str = "1F1B"

    @property
    def world(self) -> int:
        """Number of processes; those of expert parallelism are taken from the data-parallel ones."""
        return self.fsdp * self.tp * self.cp * self.pp


LAYOUTS = {
    "tp2": Layout(tp=2),
    "tp2-sp": Layout(tp=2, sequence=True),
    "fsdp2-ep2": Layout(fsdp=2, ep=2),
    "fsdp4": Layout(fsdp=4),
    "tp4": Layout(tp=4),
    "fsdp2-tp2-sp": Layout(fsdp=2, tp=2, sequence=True),
    "fsdp2-cp2": Layout(fsdp=2, cp=2),
    "fsdp4-ep2": Layout(fsdp=4, ep=2),
    "fsdp2-pp2": Layout(fsdp=2, pp=2),
    "fsdp2-pp2-interleaved": Layout(fsdp=2, pp=2, schedule="Interleaved1F1B"),
}

EXTRAS = ("none", "selective", "full", "compiled")
"""Which activations are kept, or that blocks are compiled."""


def exists(family: str, name: str) -> bool:
    """Whether a model can be laid out so: only one has experts."""
    return LAYOUTS[name].ep == 1 or family == "deepseek_v3"


def parallelism(layout: Layout) -> Any:
    """What torchtitan takes."""
    from torchtitan.config import ParallelismConfig

    return ParallelismConfig(
        data_parallel_shard_degree=layout.fsdp,
        tensor_parallel_degree=layout.tp,
        enable_sequence_parallel=layout.sequence,
        context_parallel_degree=layout.cp,
        expert_parallel_degree=layout.ep,
        pipeline_parallel_degree=layout.pp,
        pipeline_parallel_schedule=layout.schedule,
        pipeline_parallel_first_stage_less_layers=0,
        pipeline_parallel_last_stage_less_layers=0,
        spmd_backend="partial_dtensor",
    )


def specification(family: str, layout: Layout, tied: bool = True) -> Any:
    """A small model with an attention that has a backward on the CPU, told of its layout.

    Args:
        family: one of `FAMILIES`.
        layout: how it is to be distributed.
        tied: whether embedding and head may share their weight; torchtitan does not let them in a pipeline.
    """
    from torchtitan.models.common.attention import ScaledDotProductAttention

    torch.manual_seed(0)
    spec = importlib.import_module(f"torchtitan.models.{family}").model_registry("debugmodel")
    model = spec.model
    del model.layers[DEPTH:]
    for layer in model.layers:
        layer.attention.inner_attention = ScaledDotProductAttention.Config()
    if model.enable_weight_tying and not tied:
        model.enable_weight_tying = False
        model.tok_embeddings.param_init = model.lm_head.param_init
    model.update_from_config(config=types.SimpleNamespace(parallelism=parallelism(layout)))
    return spec
