"""Models with the same values in every process, and what stands in on the CPU for kernels that need a GPU."""

from __future__ import annotations

from typing import Any

import torch
from torch import nn
from torch.distributed.tensor import DTensor, Partial, Replicate, Shard
from torch.nn import functional as F

from benchmarks.layouts.layout import BATCH, LENGTH


def model_of(spec: Any, plain: bool) -> nn.Module:
    """With the same values in every process; new parameters are moved by noise."""
    from mhc_compile.torchtitan.model import transformed

    torch.manual_seed(0)
    model: nn.Module = spec.model.build()
    model.init_states()
    if plain:
        return model
    model = transformed(model, n=4, options={})
    with torch.no_grad():
        for parameter in model.hyper_connections.parameters():
            parameter.add_(0.1 * torch.randn_like(parameter))
    return model


def batch(spec: Any) -> tuple[torch.Tensor, torch.Tensor]:
    """Tokens and positions `[BATCH, LENGTH]`."""
    tokens = torch.randint(spec.model.vocab_size, (BATCH, LENGTH), generator=torch.Generator().manual_seed(1))
    return tokens, torch.arange(LENGTH).expand(BATCH, -1).contiguous()


def loss_of(output: torch.Tensor) -> torch.Tensor:
    """Any function of the output will do."""
    return output.float().square().mean()


def whole(tensor: torch.Tensor) -> torch.Tensor:
    """A distributed tensor in one piece."""
    return tensor.full_tensor() if isinstance(tensor, DTensor) else tensor


def compute_experts_in_fp32() -> None:
    """The rounding of bf16, in which torchtitan computes them, would hide what is compared here."""
    from torchtitan.models.common.moe import GroupedExperts

    def forward(self: Any, x: torch.Tensor, counts: torch.Tensor) -> torch.Tensor:
        weights = (self.w1_EFD, self.w2_EDF, self.w3_EFD)
        w1, w2, w3 = (w.to_local() if isinstance(w, DTensor) else w for w in weights)
        expert = torch.bucketize(torch.arange(x.shape[0]), counts.cumsum(0), right=True)
        out = torch.zeros_like(x)
        for i in range(w1.shape[0]):
            hidden = F.silu(x @ w1[i].T) * (x @ w3[i].T)
            out = out + torch.where((expert == i)[:, None], hidden @ w2[i].T, 0.0)
        return out

    GroupedExperts.forward = forward  # type: ignore[method-assign]


def context_parallel(model: Any, mesh: Any) -> None:
    """What torchtitan does on a GPU: attention over the keys of all processes. Its kernels have no form for the CPU."""

    def attend(q: torch.Tensor, k: torch.Tensor, v: torch.Tensor, **options: Any) -> torch.Tensor:
        parts = (DTensor.from_local(t, mesh, [Shard(1)], run_check=False) for t in (k, v))
        wholes = (t.redistribute(placements=[Replicate()]).to_local(grad_placements=[Partial()]) for t in parts)
        k, v = (t.transpose(1, 2) for t in wholes)
        begin = mesh.get_local_rank() * q.shape[1]
        causal = torch.arange(k.shape[2]) <= begin + torch.arange(q.shape[1])[:, None]
        options = {key: value for key, value in options.items() if key in ("scale", "enable_gqa")}
        out = F.scaled_dot_product_attention(q.transpose(1, 2), k, v, attn_mask=causal, **options)
        return out.transpose(1, 2)

    for layer in model.layers.values():
        layer.attention.inner_attention.forward = attend
