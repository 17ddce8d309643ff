"""Tiny models of Transformers as people train them: how each is made, what it learns from, what it predicts."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import torch
import transformers
from torch import Tensor

Row = dict[str, Tensor]
_TEXT = {"hidden_size": 32, "intermediate_size": 64, "num_hidden_layers": 2, "num_attention_heads": 4}
_SPECIAL = {"pad_token_id": 0, "bos_token_id": 1, "eos_token_id": 2}
_DECODER = {**_TEXT, "num_key_value_heads": 2, "vocab_size": 64, **_SPECIAL}
VOCABULARY = 64


@dataclass(frozen=True)
class Family:
    """One kind of model.

    Attributes:
        kind: name of the class in Transformers.
        config: name of the class of its configuration.
        sizes: of the configuration.
        row: one example to learn from, by a generator of random numbers.
        prompt: what `generate` starts from; "" for a model that only predicts.
    """

    kind: str
    config: str
    sizes: dict[str, Any]
    row: Callable[[torch.Generator], Row]
    prompt: str = "input_ids"

    def make(self) -> Any:
        """The plain model, with random weights that are always the same."""
        torch.manual_seed(0)
        return getattr(transformers, self.kind)(getattr(transformers, self.config)(**self.sizes))

    def rows(self, count: int) -> list[Row]:
        """Examples that are always the same."""
        return [self.row(torch.Generator().manual_seed(index)) for index in range(count)]

    def predict(self, model: Any) -> Tensor:
        """Tokens of greedy generation, or logits, for a batch of two."""
        batch = {name: torch.stack([row[name] for row in self.rows(2)]) for name in self.rows(1)[0]}
        with torch.no_grad():
            if not self.prompt:
                return model(**batch).logits
            tokens: Tensor = model.generate(batch[self.prompt], max_new_tokens=5, min_new_tokens=5, do_sample=False)
            return tokens


def _ids(generator: torch.Generator, length: int = 8) -> Tensor:
    return torch.randint(3, VOCABULARY, (length,), generator=generator)


def _text(generator: torch.Generator) -> Row:
    ids = _ids(generator)
    return {"input_ids": ids, "labels": ids}


def _pair(generator: torch.Generator) -> Row:
    return {"input_ids": _ids(generator), "labels": _ids(generator, 5)}


def _image(generator: torch.Generator) -> Row:
    return {"pixel_values": torch.randn(3, 16, 16, generator=generator), "labels": _ids(generator, 1)[0] % 4}


def _sound(generator: torch.Generator) -> Row:
    return {"input_features": torch.randn(8, 32, generator=generator), "labels": _ids(generator, 5)}


FAMILIES = {
    "Llama": Family("LlamaForCausalLM", "LlamaConfig", _DECODER, _text),
    "Qwen3": Family("Qwen3ForCausalLM", "Qwen3Config", {**_DECODER, "head_dim": 8}, _text),
    "Mixtral": Family(
        "MixtralForCausalLM", "MixtralConfig", {**_DECODER, "num_local_experts": 4, "output_router_logits": True}, _text
    ),
    "T5": Family(
        "T5ForConditionalGeneration",
        "T5Config",
        {"vocab_size": 64, "d_model": 32, "d_kv": 8, "d_ff": 64, "num_layers": 2, "num_heads": 4}
        | {"pad_token_id": 0, "eos_token_id": 1, "decoder_start_token_id": 0},
        _pair,
    ),
    "BERT": Family("BertForMaskedLM", "BertConfig", {**_TEXT, "vocab_size": 64}, _text, prompt=""),
    "ViT": Family(
        "ViTForImageClassification", "ViTConfig", {**_TEXT, "image_size": 16, "patch_size": 4, "num_labels": 4},
        _image, prompt="",
    ),
    "Whisper": Family(
        "WhisperForConditionalGeneration",
        "WhisperConfig",
        {"vocab_size": 64, "d_model": 32, "num_mel_bins": 8, "max_source_positions": 16, "max_target_positions": 16}
        | {f"{side}_{what}": 2 for side in ("encoder", "decoder") for what in ("layers", "attention_heads")}
        | {f"{side}_ffn_dim": 64 for side in ("encoder", "decoder")}
        | {"decoder_start_token_id": 1, "suppress_tokens": [], "begin_suppress_tokens": [], **_SPECIAL},
        _sound,
        prompt="input_features",
    ),
}  # fmt: skip
