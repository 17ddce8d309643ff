"""One small GPT with four kinds of residual connection: plain, ours, and the two that can be written in by hand."""

from __future__ import annotations

import copy
from dataclasses import dataclass
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor, nn

import mhc_compile
from benchmarks.contestants import CUDA_SITES, sites
from examples.train_char_gpt import VOCABULARY, CharGPT


@dataclass(frozen=True)
class Size:
    """A GPT and its batch; the benchmark GPT has C = 384, 8 sites and 1,024 tokens."""

    width: int = 384
    layers: int = 4
    heads: int = 6
    batch: int = 4
    context: int = 256


class HyperBlock(nn.Module):
    """A block of the plain GPT, its two additions replaced by hand."""

    def __init__(self, block: nn.Module, site: type[nn.Module], n: int, channels: int) -> None:
        super().__init__()
        self.block = block
        self.sites = nn.ModuleList(site(n, channels) for _ in range(2))

    def forward(self, X: Tensor) -> Tensor:
        """Streams to streams."""
        b = self.block
        branches = (lambda u: b.attention(b.attention_norm(u)), lambda u: b.mlp(b.mlp_norm(u)))
        for site, branch in zip(self.sites, branches, strict=True):
            u, state = site.read(X)  # type: ignore[operator]
            X = site.write(state, branch(u))  # type: ignore[operator]
        return X


class HyperGPT(nn.Module):
    """The plain GPT, rewritten by hand around somebody else's mHC layer."""

    def __init__(self, plain: CharGPT, site: type[nn.Module], n: int) -> None:
        super().__init__()
        self.plain, self.n = plain, n
        width = plain.token.embedding_dim
        self.blocks = nn.ModuleList(HyperBlock(block, site, n, width) for block in plain.blocks)

    def forward(self, characters: Tensor) -> Tensor:
        """Logits of each next character."""
        plain = self.plain
        x = plain.token(characters) + plain.position.weight[: characters.shape[1]]
        site = self.blocks[0].sites[0]
        X = site.enter(x.expand(self.n, *x.shape))
        for block in self.blocks:
            X = block(X)
        return plain.head(plain.norm(site.leave(X)))


def vanilla(size: Size, device: str = "cpu", dtype: torch.dtype = torch.float32) -> CharGPT:
    """The plain GPT, always the same weights."""
    torch.manual_seed(0)
    return CharGPT(size.context, size.width, size.layers, size.heads).to(device, dtype)


def ours(plain: CharGPT, n: int, example: Tensor, **options: Any) -> nn.Module:
    """A copy of the plain GPT, transformed."""
    return mhc_compile.transform(copy.deepcopy(plain), n=n, example_inputs=(example,), modes=("train",), **options)


def by_hand(plain: CharGPT, n: int, site: str) -> HyperGPT:
    """A copy of the plain GPT around the mHC layer of that name, a key of `CUDA_SITES`; the new parameters are fp32."""
    return HyperGPT(copy.deepcopy(plain), CUDA_SITES[site], n).to(plain.position.weight.device)


def gpts(plain: CharGPT, n: int, example: Tensor) -> dict[str, nn.Module]:
    """Name -> model, all from the same weights."""
    others = {site: by_hand(plain, n, site) for site in sites(example.device.type)}
    return {"vanilla": plain, "ours": ours(plain, n, example), **others}


def batch(size: Size, device: str = "cpu") -> tuple[Tensor, Tensor]:
    """Characters and the ones that follow."""
    characters = torch.randint(VOCABULARY, (size.batch, size.context + 1), generator=torch.Generator().manual_seed(0))
    return characters[:, :-1].contiguous().to(device), characters[:, 1:].contiguous().to(device)


def loss_of(model: nn.Module, characters: Tensor, following: Tensor) -> Tensor:
    """Mean cross-entropy."""
    return F.cross_entropy(model(characters).flatten(0, 1), following.flatten())
