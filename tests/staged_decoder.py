"""A decoder that is cut into stages, its batches, and the stages one after another."""

from __future__ import annotations

import torch
from torch import nn

import mhc_compile
from mhc_compile import pipeline
from tests.copies import copied
from tests.toy_models import WIDTH, Block

STEPS, BATCH, MICRO, LENGTH, WORDS = 8, 8, 4, 6, 16


class Attention(nn.Module):
    """Causal attention with a learned bias and a mask of constants that the model made for all layers."""

    def __init__(self):
        super().__init__()
        self.qkv = nn.Linear(WIDTH, 3 * WIDTH)
        self.out = nn.Linear(WIDTH, WIDTH)

    def forward(self, x, bias, causal, keep):
        q, k, v = self.qkv(x).chunk(3, -1)
        scores = (q @ k.mT / WIDTH**0.5 + bias + causal).masked_fill(~keep[:, None], -1e9)
        return self.out(scores.softmax(-1) @ v)


class Layer(nn.Module):
    def __init__(self):
        super().__init__()
        self.attn, self.mlp = Attention(), Block()
        self.norm = nn.LayerNorm(WIDTH)

    def forward(self, x, *masks):
        return self.mlp(x + self.attn(self.norm(x), *masks))


class Decoder(nn.Module):
    """A learned bias that every layer adds, a causal mask made of constants, and a mask of the padding."""

    def __init__(self, depth=4):
        super().__init__()
        self.embed = nn.Embedding(WORDS, WIDTH)
        self.distance = nn.Embedding(LENGTH, 1)
        self.blocks = nn.ModuleList(Layer() for _ in range(depth))
        self.norm = nn.LayerNorm(WIDTH)
        self.head = nn.Linear(WIDTH, WORDS)

    def forward(self, ids, keep):
        place = torch.arange(ids.shape[1], device=ids.device)
        back = place[:, None] - place
        bias = self.distance(back.clamp(min=0)).squeeze(-1)
        causal = torch.where(back < 0, -1e9, 0.0)
        x = self.embed(ids)
        for block in self.blocks:
            x = block(x, bias, causal, keep)
        return self.head(self.norm(x))


def batch(step=0, size=BATCH):
    generator = torch.Generator().manual_seed(step)
    ids = (torch.randint(WORDS, (size, 1), generator=generator) + torch.arange(LENGTH + 1)) % WORDS
    keep = torch.ones(size, LENGTH, dtype=torch.bool)
    keep[::2, 0] = step % 2 == 0
    keep[:, 0] |= True
    keep[::3, 1] = False
    return ids[:, :-1], keep, ids[:, 1:]


@copied
def decoder(seed=0, **options):
    torch.manual_seed(seed)
    ids, keep, _ = batch()
    return mhc_compile.transform(Decoder(), **{"example_inputs": (ids, keep), "modes": ("train",), **options})


def cut(model, *at, **options):
    return pipeline.split(model, at, **{"example_inputs": batch()[:2], "modes": ("train",), **options})


def run(stages, *inputs, **kwargs):
    """The stages one after another; also what crossed each border."""
    value, borders = stages[0](*inputs, **kwargs), []
    for stage in stages[1:]:
        borders.append(value if isinstance(value, tuple) else (value,))
        value = stage(*borders[-1])
    return value, borders


def loss_of(logits, labels):
    return nn.functional.cross_entropy(logits.flatten(0, 1), labels.flatten())
