"""Train a small GPT on Python's own source text, with and without hyper-connections, side by side.

    python -m examples.train_char_gpt
    python -m examples.train_char_gpt --connection identity --n 2 --steps 500

Both models start from the same weights and see the same batches, one step of each in turn. Because the transformation
keeps the function, both curves start at the same point: what differs afterwards is what the streams learn. A run this
small shows that training works; it is too small to say which one is better.
"""

from __future__ import annotations

import argparse
import copy
import sysconfig
from collections.abc import Iterator, Sequence
from pathlib import Path

import torch
import torch.nn.functional as F
from torch import Tensor, nn

import mhc_compile

VOCABULARY = 128  # ASCII
MOST_TEXT = 2_000_000  # characters read from the standard library


class Attention(nn.Module):
    """Causal self-attention over `[batch, length, width]`."""

    def __init__(self, width: int, heads: int) -> None:
        super().__init__()
        self.heads = heads
        self.qkv = nn.Linear(width, 3 * width)
        self.out = nn.Linear(width, width)

    def forward(self, x: Tensor) -> Tensor:
        """Mix tokens with those before them."""
        batch, length, width = x.shape
        qkv = self.qkv(x).view(batch, length, 3, self.heads, width // self.heads)
        q, k, v = qkv.permute(2, 0, 3, 1, 4)
        mixed = F.scaled_dot_product_attention(q, k, v, is_causal=True)
        return self.out(mixed.transpose(1, 2).reshape(batch, length, width))


class Block(nn.Module):
    """A plain pre-norm block. The two additions are what the compiler finds; nothing here knows about streams."""

    def __init__(self, width: int, heads: int) -> None:
        super().__init__()
        self.attention_norm = nn.LayerNorm(width)
        self.attention = Attention(width, heads)
        self.mlp_norm = nn.LayerNorm(width)
        self.mlp = nn.Sequential(nn.Linear(width, 4 * width), nn.GELU(), nn.Linear(4 * width, width))

    def forward(self, x: Tensor) -> Tensor:
        """Two residual connections."""
        x = x + self.attention(self.attention_norm(x))
        return x + self.mlp(self.mlp_norm(x))


class CharGPT(nn.Module):
    """Characters `[batch, length]` to logits `[batch, length, VOCABULARY]`."""

    def __init__(self, context: int, width: int, layers: int, heads: int) -> None:
        super().__init__()
        self.token = nn.Embedding(VOCABULARY, width)
        self.position = nn.Embedding(context, width)
        self.blocks = nn.ModuleList(Block(width, heads) for _ in range(layers))
        self.norm = nn.LayerNorm(width)
        self.head = nn.Linear(width, VOCABULARY)

    def forward(self, characters: Tensor) -> Tensor:
        """Logits of each next character."""
        x = self.token(characters) + self.position.weight[: characters.shape[1]]
        for block in self.blocks:
            x = block(x)
        return self.head(self.norm(x))


def main(arguments: Sequence[str] | None = None) -> None:
    """Train both models and print their losses in one table."""
    options = _parse(arguments)
    torch.manual_seed(options.seed)
    vanilla = CharGPT(options.context, options.width, options.layers, heads=4)
    text = standard_library_text()
    sampler = batches(text, options.batch, options.context)
    example, _ = next(sampler)

    # The transformed model shares its weights with the original one, so each of the two gets its own copy.
    hyper = mhc_compile.transform(
        copy.deepcopy(vanilla),
        n=options.n,
        connection=options.connection,
        example_inputs=(example,),
        modes=("train",),
    )
    added = hyper.mhc_plan.parameters
    total = sum(p.numel() for p in vanilla.parameters())
    print(f"{len(text):,} characters; vanilla has {total:,} parameters, {options.connection} adds {added:,}\n")
    train({"vanilla": vanilla, options.connection: hyper}, sampler, options)


def train(models: dict[str, nn.Module], sampler: Iterator[tuple[Tensor, Tensor]], options: argparse.Namespace) -> None:
    """One step of each model in turn, on the same batch; a row with the mean losses every `options.every` steps."""
    optimizers = {
        name: torch.optim.AdamW(mhc_compile.parameter_groups(model, weight_decay=0.1), lr=options.lr)
        for name, model in models.items()
    }
    print("  step" + "".join(f"{name:>12}" for name in models))
    losses: dict[str, list[float]] = {name: [] for name in models}
    for step in range(1, options.steps + 1):
        characters, following = next(sampler)
        for name, model in models.items():
            losses[name].append(train_step(model, optimizers[name], characters, following))
        if step == 1 or step % options.every == 0:
            recent = (curve[-options.every :] for curve in losses.values())
            print(f"{step:6}" + "".join(f"{sum(curve) / len(curve):12.4f}" for curve in recent))


def train_step(model: nn.Module, optimizer: torch.optim.Optimizer, characters: Tensor, following: Tensor) -> float:
    """One optimizer step; the loss before it, in nats per character."""
    loss = F.cross_entropy(model(characters).flatten(0, 1), following.flatten())
    optimizer.zero_grad()
    loss.backward()
    optimizer.step()
    return loss.item()


def standard_library_text() -> Tensor:
    """Characters of Python's standard library `[MOST_TEXT or less]`, those beyond ASCII left out."""
    folder = Path(sysconfig.get_paths()["stdlib"])
    text = bytearray()
    for path in sorted(folder.glob("*.py")):
        text += path.read_bytes().decode(errors="ignore").encode("ascii", errors="ignore")
        if len(text) >= MOST_TEXT:
            break
    return torch.frombuffer(text[:MOST_TEXT], dtype=torch.uint8).long()


def batches(text: Tensor, batch: int, context: int) -> Iterator[tuple[Tensor, Tensor]]:
    """Endless random pieces `[batch, context]` of the text, each with the characters that follow."""
    while True:
        starts = torch.randint(len(text) - context, (batch, 1))
        pieces = text[starts + torch.arange(context + 1)]
        yield pieces[:, :-1], pieces[:, 1:]


def _parse(arguments: Sequence[str] | None) -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    for name, default in (("n", 4), ("steps", 200), ("every", 20), ("batch", 16), ("context", 64), ("width", 64)):
        parser.add_argument(f"--{name}", type=int, default=default, help="default: %(default)s")
    parser.add_argument("--layers", type=int, default=4, help="default: %(default)s")
    parser.add_argument("--seed", type=int, default=0, help="default: %(default)s")
    parser.add_argument("--lr", type=float, default=1e-3, help="default: %(default)s")
    parser.add_argument("--connection", default="mhc", help="what a site computes (default: %(default)s)")
    parser.add_argument("--short", action="store_true", help="a small model and few steps")
    if parser.parse_args(arguments).short:
        parser.set_defaults(steps=12, every=4, batch=4, context=16, width=16, layers=2)
    return parser.parse_args(arguments)


if __name__ == "__main__":
    main()
