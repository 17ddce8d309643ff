"""What recipes take for granted, in small: a language model in a folder, a tokenizer, sentences."""

from __future__ import annotations

import random
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn
from transformers import LlamaConfig, LlamaForCausalLM, PreTrainedTokenizerFast

WORDS = [
    "the",
    "a",
    "cat",
    "dog",
    "sat",
    "ran",
    "on",
    "under",
    "mat",
    "tree",
    "and",
    "then",
    "it",
    "was",
    "good",
    "bad",
]
IDS = torch.randint(3, 19, (2, 9), generator=torch.Generator().manual_seed(0))
SETTINGS: dict[str, Any] = {
    "max_steps": 2,
    "per_device_train_batch_size": 4,
    "learning_rate": 1e-2,
    "use_cpu": True,
    "bf16": False,
    "report_to": "none",
    "disable_tqdm": True,
    "logging_steps": 1,
}
"""For any `TrainingArguments`."""


def llama(**sizes: Any) -> LlamaForCausalLM:
    """Two layers of 32 channels, with random weights that are always the same."""
    torch.manual_seed(0)
    config = {"vocab_size": 32, "hidden_size": 32, "intermediate_size": 64, "num_hidden_layers": 2, **sizes}
    heads = {"num_attention_heads": 4, "num_key_value_heads": 2}
    return LlamaForCausalLM(LlamaConfig(**config, **heads, pad_token_id=0, eos_token_id=1, bos_token_id=1))


def tokenizer() -> PreTrainedTokenizerFast:
    """A token for each of the words."""
    from tokenizers import Tokenizer, models, pre_tokenizers

    names = {"pad_token": "<pad>", "eos_token": "<eos>", "unk_token": "<unk>"}
    made = Tokenizer(models.WordLevel({w: i for i, w in enumerate([*names.values(), *WORDS])}, unk_token="<unk>"))
    made.pre_tokenizer = pre_tokenizers.WhitespaceSplit()
    return PreTrainedTokenizerFast(tokenizer_object=made, **names)


def sentences(count: int, words: int, seed: int = 0) -> list[str]:
    """Random ones."""
    chosen = random.Random(seed)
    return [" ".join(chosen.choices(WORDS, k=words)) for _ in range(count)]


def save(model: Any, folder: Path) -> str:
    """The folder, with the model and the tokenizer in it."""
    model.save_pretrained(folder)
    tokenizer().save_pretrained(folder)
    return str(folder)


def values(model: nn.Module) -> dict[str, Tensor]:
    """The parameters that are trained, as they are now."""
    return {name: p.detach().clone() for name, p in model.named_parameters() if p.requires_grad}


def unmoved(model: nn.Module, before: dict[str, Tensor]) -> list[str]:
    """Names of the parameters that are what they were."""
    now = dict(model.named_parameters())
    return [name for name, value in before.items() if torch.equal(now[name], value)]
