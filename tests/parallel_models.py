"""A small Llama, the plan that splits it over processes, and how it is held against one process."""

from __future__ import annotations

import torch
from torch import nn
from torch.distributed.tensor import DTensor, Replicate, Shard, distribute_module
from torch.distributed.tensor.parallel import (
    ColwiseParallel,
    PrepareModuleInput,
    RowwiseParallel,
    SequenceParallel,
    parallelize_module,
)
from torch.nn import functional as F

import mhc_compile
from tests.copies import copied

C, HEADS, VOCABULARY = 16, 4, 12


class Attention(nn.Module):
    def __init__(self):
        super().__init__()
        self.q, self.k, self.v, self.o = (nn.Linear(C, C, bias=False) for _ in range(4))

    def forward(self, x, scale, *, causal=True):
        q, k, v = (f(x).unflatten(-1, (-1, C // HEADS)).transpose(1, 2) for f in (self.q, self.k, self.v))
        return self.o(F.scaled_dot_product_attention(q * scale, k, v, is_causal=causal).transpose(1, 2).flatten(2))


class FeedForward(nn.Module):
    def __init__(self):
        super().__init__()
        self.up, self.gate, self.down = nn.Linear(C, 2 * C), nn.Linear(C, 2 * C), nn.Linear(2 * C, C)

    def forward(self, x):
        return {"y": self.down(F.silu(self.gate(x)) * self.up(x))}


class Layer(nn.Module):
    def __init__(self):
        super().__init__()
        self.norms = nn.ModuleList(nn.RMSNorm(C) for _ in range(2))
        self.attention, self.mlp = Attention(), FeedForward()

    def forward(self, x, scale):
        x = x + self.attention(self.norms[0](x), scale, causal=True)
        return x + self.mlp(self.norms[1](x))["y"]


class Llama(nn.Module):
    def __init__(self):
        super().__init__()
        self.embedding = nn.Embedding(VOCABULARY, C)
        self.layers = nn.ModuleList(Layer() for _ in range(2))
        self.norm, self.head = nn.RMSNorm(C), nn.Linear(C, VOCABULARY, bias=False)
        self.register_buffer("scale", torch.tensor(1.1))

    def forward(self, ids):
        x = self.embedding(ids)
        for layer in self.layers:
            x = layer(x, self.scale)
        return self.head(self.norm(x))


def plain():
    torch.manual_seed(0)
    return Llama()


IDS = torch.randint(VOCABULARY, (2, 6), generator=torch.Generator().manual_seed(1))


@copied
def transformed(**options):
    return transformed_from(plain(), **options)


def transformed_from(model, **options):
    model = mhc_compile.transform(model, n=4, example_inputs=(IDS,), modes=("train",), **options)
    generator = torch.Generator().manual_seed(2)
    with torch.no_grad():
        for parameter in model.hyper_connections.parameters():
            parameter.add_(0.1 * torch.randn(parameter.shape, generator=generator))
    return model


def tensor_parallel(model, mesh, *, sequence=False, local=True):
    """The plans that people write; `sequence` leaves the stream sharded over the sequence between the modules."""
    here = Shard(1) if sequence else Replicate()
    options = {"use_local_output": local}
    outer = {"embedding": RowwiseParallel(input_layouts=Replicate(), output_layouts=here, **options),
             "head": ColwiseParallel(input_layouts=here, output_layouts=Replicate())}  # fmt: skip
    inner = {name: ColwiseParallel() for name in ("attention.q", "attention.k", "attention.v", "mlp.up", "mlp.gate")}
    inner |= {name: RowwiseParallel(output_layouts=here, **options) for name in ("attention.o", "mlp.down")}
    inner["mlp"] = PrepareModuleInput(input_layouts=here, desired_input_layouts=Replicate())
    inner["attention"] = PrepareModuleInput(
        input_layouts=(here, None), desired_input_layouts=(Replicate(), None), use_local_output=True
    )
    if sequence:
        outer["norm"] = SequenceParallel()
        inner |= {f"norms.{i}": SequenceParallel() for i in range(2)}
    elif not local:  # a stream that is a DTensor wants weights that are
        for norm in [model.norm, *(norm for layer in model.layers for norm in layer.norms)]:
            distribute_module(norm, mesh)
    parallelize_module(model, mesh, outer)
    for layer in model.layers:
        parallelize_module(layer, mesh, inner)


def whole(tensor):
    return tensor.full_tensor() if isinstance(tensor, DTensor) else tensor


def compare(model, single, sequences=(6,)):
    for length in sequences:
        ids = IDS[:, :length]
        for m in (model, single):
            m.zero_grad()
        found, expected = whole(model(ids)), single(ids)
        torch.testing.assert_close(found, expected)
        found.square().mean().backward(), expected.square().mean().backward()
        for (name, mine), alone in zip(model.named_parameters(), single.parameters(), strict=True):
            torch.testing.assert_close(whole(mine.grad), alone.grad, rtol=1e-4, atol=1e-6, msg=name)


def new(model):
    return list(model.hyper_connections.parameters())
