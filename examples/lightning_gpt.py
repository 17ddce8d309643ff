"""Hyper-connections in a Lightning module: training, a checkpoint, a resumed run.

    pip install 'mhc-compile[frameworks]'
    python -m examples.lightning_gpt

The transformed model is a submodule. `configure_model` or `__init__` is the place to make it: before the optimizer, and
in the same way in every process.
"""

from __future__ import annotations

import argparse
import logging
import tempfile
from collections.abc import Sequence
from pathlib import Path

import lightning
import torch
import torch.nn.functional as F
from torch import Tensor
from torch.utils.data import DataLoader, TensorDataset

import mhc_compile
from examples.train_char_gpt import CharGPT

LENGTH = 16
VOCABULARY = 32


class Language(lightning.LightningModule):
    """Next-token prediction with a GPT whose residual connections are widened."""

    def __init__(self, n: int = 4) -> None:
        super().__init__()
        example = torch.zeros(2, LENGTH, dtype=torch.long)
        gpt = CharGPT(LENGTH, width=32, layers=2, heads=4)
        self.gpt = mhc_compile.transform(gpt, n=n, example_inputs=(example,), modes=("train",))
        self.losses: list[float] = []

    def training_step(self, batch: Sequence[Tensor], index: int) -> Tensor:
        """The loss of one batch `[count, LENGTH + 1]`."""
        (ids,) = batch
        loss = F.cross_entropy(self.gpt(ids[:, :-1]).flatten(0, 1), ids[:, 1:].flatten())
        self.losses.append(loss.item())
        return loss

    def configure_optimizers(self) -> torch.optim.Optimizer:
        """Weight decay for matrices only, as `parameter_groups` sorts them."""
        return torch.optim.AdamW(mhc_compile.parameter_groups(self.gpt, weight_decay=0.1), lr=1e-2)


def main(arguments: Sequence[str] | None = None) -> list[float]:
    """Train half of the steps, resume from the checkpoint, train the rest; the losses of all steps."""
    options = _parse(arguments)
    logging.getLogger("lightning.pytorch").setLevel(logging.ERROR)
    with tempfile.TemporaryDirectory() as folder:
        path = Path(folder) / "half.ckpt"
        first, half = Language(), trainer(options.steps // 2)
        half.fit(first, batches())
        half.save_checkpoint(path)
        second = Language()
        trainer(options.steps).fit(second, batches(), ckpt_path=path)
    losses = [*first.losses, *second.losses]
    print(f"{len(first.losses)} + {len(second.losses)} steps, loss {losses[0]:.3f} to {losses[-1]:.3f}")
    return losses


def trainer(steps: int) -> lightning.Trainer:
    """A quiet trainer on the CPU."""
    return lightning.Trainer(
        max_steps=steps,
        accelerator="cpu",
        devices=1,
        logger=False,
        enable_checkpointing=False,
        enable_progress_bar=False,
        enable_model_summary=False,
    )


def batches() -> DataLoader[tuple[Tensor, ...]]:
    """Counting sequences: easy to learn, made without a file."""
    start = torch.arange(64)[:, None]
    return DataLoader(TensorDataset((start + torch.arange(LENGTH + 1)) % VOCABULARY), batch_size=8)


def _parse(arguments: Sequence[str] | None) -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--steps", type=int, default=32, help="default: %(default)s")
    return parser.parse_args(arguments)


if __name__ == "__main__":
    main()
