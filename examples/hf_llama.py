"""Hyper-connections in a Hugging Face model: labels and loss, a few optimizer steps, a checkpoint.

    python -m examples.hf_llama

The Llama here is made from a configuration, small and with random weights, so nothing is downloaded. The same lines
work on `AutoModelForCausalLM.from_pretrained(...)`.
"""

from __future__ import annotations

import argparse
import tempfile
from collections.abc import Sequence
from pathlib import Path

import torch
from torch import Tensor, nn
from transformers import LlamaConfig, LlamaForCausalLM

import mhc_compile

VOCABULARY = 256


def main(arguments: Sequence[str] | None = None) -> None:
    """Transform, compare, train, save and load."""
    options = _parse(arguments)
    torch.manual_seed(0)
    model = tiny_llama()
    batch = tokens(2, 24)

    # Sizes of the batch and of the sequence stay open: any other size runs without another trace.
    hyper = mhc_compile.transform(model, n=4, example_kwargs=batch)
    print(f"{type(hyper).__name__}: {len(hyper.mhc_plan.sites)} sites, {hyper.mhc_plan.parameters:,} new parameters")

    # Outputs are the model's own output class, loss included.
    with torch.no_grad():
        before, after = model(**batch), hyper(**batch)
    print(f"{type(after).__name__}: loss {before.loss:.6f} before, {after.loss:.6f} after")
    torch.testing.assert_close(after.loss, before.loss)

    for step, loss in enumerate(train(hyper, options.steps), start=1):
        print(f"step {step}: loss {loss:.4f}")

    restored = round_trip(hyper, batch)
    with torch.no_grad():
        torch.testing.assert_close(restored(**batch).logits, hyper.eval()(**batch).logits)
    print("saved, loaded into a fresh model, and the outputs agree")


def tiny_llama(layers: int = 2) -> LlamaForCausalLM:
    """A few layers, 32 channels, grouped-query attention, random weights, in evaluation mode."""
    config = LlamaConfig(
        vocab_size=VOCABULARY,
        hidden_size=32,
        intermediate_size=64,
        num_hidden_layers=layers,
        num_attention_heads=4,
        num_key_value_heads=2,
        use_cache=False,
    )
    return LlamaForCausalLM(config).eval()


def tokens(count: int, length: int) -> dict[str, Tensor]:
    """Counting sequences `[count, length]` modulo the vocabulary: easy to learn, made without a file."""
    start = torch.randint(VOCABULARY, (count, 1))
    ids = (start + torch.arange(length)) % VOCABULARY
    return {"input_ids": ids, "labels": ids}


def train(model: nn.Module, steps: int) -> list[float]:
    """A few steps of AdamW on fresh batches of another size; the losses."""
    # Two groups: matrices take weight decay, norms and the resting point of the hyper-connections do not.
    optimizer = torch.optim.AdamW(mhc_compile.parameter_groups(model, weight_decay=0.1), lr=1e-2)
    model.train()
    losses = []
    for _ in range(steps):
        loss = model(**tokens(4, 40)).loss
        loss.backward()
        optimizer.step()
        optimizer.zero_grad()
        losses.append(loss.item())
    return losses


def round_trip(hyper: nn.Module, batch: dict[str, Tensor]) -> nn.Module:
    """Save the weights, and load them into a fresh model that was transformed in the same way.

    The state dict has the names of the original model and `hyper_connections.*` beside them. Loading always overrides
    the initial values.
    """
    with tempfile.TemporaryDirectory() as folder:
        path = Path(folder) / "weights.pt"
        torch.save(hyper.state_dict(), path)
        fresh = mhc_compile.transform(tiny_llama(), n=4, example_kwargs=batch)
        fresh.load_state_dict(torch.load(path))
    return fresh.eval()


def _parse(arguments: Sequence[str] | None) -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--steps", type=int, default=10, help="default: %(default)s")
    return parser.parse_args(arguments)


if __name__ == "__main__":
    main()
