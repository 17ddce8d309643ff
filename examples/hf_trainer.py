"""Hyper-connections under the `Trainer` of Hugging Face: checkpoints, a resumed run, gradient checkpointing, saving.

    pip install 'mhc-compile[frameworks]'
    python -m examples.hf_trainer
    python -m examples.hf_trainer --gradient-checkpointing

Transform before the trainer is made. Everything else is as with any model.
"""

from __future__ import annotations

import argparse
import tempfile
from collections.abc import Sequence

import torch
from torch import Tensor
from torch.utils.data import Dataset
from transformers import LlamaForCausalLM, Trainer, TrainingArguments

import mhc_compile
from examples.hf_llama import tiny_llama, tokens

LENGTH = 24


class Counting(Dataset[dict[str, Tensor]]):
    """Counting sequences of LENGTH tokens."""

    def __len__(self) -> int:
        return 64

    def __getitem__(self, index: int) -> dict[str, Tensor]:
        torch.manual_seed(index)
        return {name: value[0] for name, value in tokens(1, LENGTH).items()}


def main(arguments: Sequence[str] | None = None) -> list[float]:
    """Train, resume, save and load; the losses of the resumed run."""
    options = _parse(arguments)
    with tempfile.TemporaryDirectory() as folder:
        first = trainer(folder, options.steps // 2, options.gradient_checkpointing)
        first.train()
        second = trainer(folder, options.steps, options.gradient_checkpointing)
        second.train(resume_from_checkpoint=True)
        losses = [entry["loss"] for entry in second.state.log_history if "loss" in entry]
        print(f"resumed at step {options.steps // 2}; losses {', '.join(f'{loss:.3f}' for loss in losses)}")

        second.save_model(folder)
        restored = mhc_compile.from_pretrained(folder)
        batch = {name: value.to(second.model.device) for name, value in tokens(2, LENGTH).items()}
        with torch.no_grad():
            torch.testing.assert_close(restored(**batch).logits, second.model.eval()(**batch).logits)
    print("saved, loaded into a fresh model, and the outputs agree")
    return losses


def transformed(model: LlamaForCausalLM) -> LlamaForCausalLM:
    """What every process and every restart does first. Evaluation is traced when it comes."""
    return mhc_compile.transform(model, n=4, example_kwargs=tokens(2, LENGTH), modes=("train",))


def trainer(folder: str, steps: int, gradient_checkpointing: bool) -> Trainer:
    """A trainer of a fresh model for so many steps in all."""
    torch.manual_seed(0)
    settings = TrainingArguments(
        output_dir=folder,
        max_steps=steps,
        save_steps=steps,
        logging_steps=max(1, steps // 4),
        per_device_train_batch_size=4,
        learning_rate=1e-2,
        lr_scheduler_type="constant",
        gradient_checkpointing=gradient_checkpointing,
        report_to="none",
        disable_tqdm=True,
        use_cpu=True,
    )
    return Trainer(transformed(tiny_llama()), settings, train_dataset=Counting())


def _parse(arguments: Sequence[str] | None) -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--steps", type=int, default=24, help="default: %(default)s")
    parser.add_argument("--gradient-checkpointing", action="store_true", help="recompute every layer in the backward")
    return parser.parse_args(arguments)


if __name__ == "__main__":
    main()
