"""What each process checks of forwards that talk to others: attention gathers keys, tokens go to experts elsewhere."""

from __future__ import annotations

from functools import partial

import torch
from torch import nn
from torch.distributed._functional_collectives import all_to_all_single_autograd
from torch.distributed.device_mesh import init_device_mesh
from torch.distributed.fsdp import fully_shard
from torch.distributed.tensor import DTensor, Partial, Replicate, Shard, distribute_tensor
from torch.nn import functional as F

from tests.parallel_models import HEADS, IDS, C, plain, transformed, transformed_from, whole


def forward_that_talks(rank, folder):
    """Context parallelism: each process has a part of the sequence, and attention gathers the rest."""
    model, single = transformed(), transformed()
    mesh = init_device_mesh("cpu", (2,))
    for block in [*model.layers, model]:
        fully_shard(block, mesh=mesh)
        block.set_gradient_divide_factor(1.0)
        block.set_force_sum_reduction_for_comms(True)
    for layer in model.layers:
        layer.attention.forward = partial(attend_everywhere, layer.attention, mesh, rank)
    here = IDS.chunk(2, 1)[rank]
    model(here).square().sum().backward(), single(IDS).square().sum().backward()
    for (name, mine), alone in zip(model.named_parameters(), single.parameters(), strict=True):
        torch.testing.assert_close(whole(mine.grad), alone.grad, rtol=1e-4, atol=1e-5, msg=name)


def attend_everywhere(self, mesh, rank, x, scale, *, causal):
    q, k, v = (f(x).unflatten(-1, (HEADS, -1)).transpose(1, 2) for f in (self.q, self.k, self.v))
    parts = (DTensor.from_local(t, mesh, [Shard(2)], run_check=False) for t in (k, v))
    k, v = (t.redistribute(placements=[Replicate()]).to_local(grad_placements=[Partial()]) for t in parts)
    causal = torch.arange(k.shape[2]) <= rank * q.shape[2] + torch.arange(q.shape[2])[:, None]
    return self.o(F.scaled_dot_product_attention(q * scale, k, v, attn_mask=causal).transpose(1, 2).flatten(2))


class Experts(nn.Module):
    """Each token goes to the expert that its number names."""

    def __init__(self):
        super().__init__()
        self.up, self.down = (nn.Parameter(torch.randn(2, C, C) / 4) for _ in range(2))

    def forward(self, x):
        return {"y": sum(F.silu(x @ self.up[e]) @ self.down[e] * chosen(x, e) for e in range(2))}


def chosen(x, expert):
    return (torch.arange(x.shape[1]) % 2 == expert).to(x.dtype)[:, None]


def experts_elsewhere(rank, folder):
    """Expert parallelism: tokens are sent to the process that has their expert, and come back."""
    made = [plain(), plain()]
    for model in made:
        torch.manual_seed(3)
        for layer in model.layers:
            layer.mlp = Experts()
    model, single = map(transformed_from, made)
    mesh = init_device_mesh("cpu", (2,))
    for layer in model.layers:
        for name, value in list(layer.mlp.named_parameters()):
            setattr(layer.mlp, name, nn.Parameter(distribute_tensor(value.detach(), mesh, [Shard(0)])))
        layer.mlp.forward = partial(send, layer.mlp, mesh)
    for m, ids in ((model, IDS[rank][None]), (single, IDS)):
        m(ids).square().sum().backward()
    for (name, mine), alone in zip(model.named_parameters(), single.parameters(), strict=True):
        total = whole(mine.grad).clone()
        if not isinstance(mine, DTensor):
            torch.distributed.all_reduce(total)
        torch.testing.assert_close(total, alone.grad, rtol=1e-4, atol=1e-5, msg=name)


def send(self, mesh, x):
    """To `[processes, tokens, C]` of this expert, through it, and back."""
    parts = torch.stack([x[:, e::2].flatten(0, 1) for e in range(2)])
    here = all_to_all_single_autograd(parts, None, None, mesh.get_group())
    up, down = (p.to_local()[0] for p in (self.up, self.down))
    back = all_to_all_single_autograd(F.silu(here @ up) @ down, None, None, mesh.get_group())
    return {"y": torch.stack(list(back.unflatten(1, (x.shape[0], -1))), 2).flatten(1, 2)}
