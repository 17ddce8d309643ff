"""Calls that take and return objects: caches of key and value, states, and `generate`, which calls a part by itself."""

from __future__ import annotations

import warnings
from typing import Any

import pytest
import torch
from torch import Tensor, nn
from torch.testing import assert_close

import mhc_compile
from tests.moved import move
from tests.tables import also
from tests.toy_models import Block

transformers = pytest.importorskip("transformers")

WIDTH, WORDS = 8, 16
IDS = torch.arange(6).view(2, 3)
SIZES = {"vocab_size": WORDS, "hidden_size": 16, "intermediate_size": 16, "num_hidden_layers": 1}
HEADS = {"num_attention_heads": 2, "num_key_value_heads": 2}
T5 = {"vocab_size": WORDS, "d_model": 16, "d_kv": 4, "d_ff": 16, "num_layers": 1, "num_heads": 2}


class Cache:
    """What a model knows of earlier tokens, an object of its own class."""

    def __init__(self) -> None:
        self.kept: list[Tensor | None] = [None, None]

    def update(self, index: int, x: Tensor) -> Tensor:
        before = self.kept[index]
        whole = x if before is None else torch.cat((before, x), 1)
        self.kept[index] = whole
        return whole


class Mean(nn.Module):
    """`x` plus a layer of the mean of all tokens so far."""

    def __init__(self) -> None:
        super().__init__()
        self.norm, self.mix = nn.LayerNorm(WIDTH), nn.Linear(WIDTH, WIDTH)

    def forward(self, x: Tensor, index: int, cache: Cache | None) -> Tensor:
        h = self.norm(x)
        whole = h if cache is None else cache.update(index, h)
        sums = whole.cumsum(1) / torch.arange(1, whole.shape[1] + 1).view(1, -1, 1)
        return x + self.mix(sums[:, -x.shape[1] :])


class Cached(nn.Module):
    """A language model with its own cache and its own `generate`."""

    def __init__(self) -> None:
        super().__init__()
        self.embed, self.head = nn.Embedding(WORDS, WIDTH), nn.Linear(WIDTH, WORDS)
        self.layers = nn.ModuleList(Mean() for _ in range(2))

    def forward(self, ids: Tensor, cache: Cache | None = None) -> tuple[Tensor, Cache | None]:
        x = self.embed(ids)
        for index, layer in enumerate(self.layers):
            x = layer(x, index, cache)
        return self.head(x), cache

    @torch.no_grad()
    def generate(self, ids: Tensor, *, cached: bool) -> tuple[Tensor, Tensor]:
        """Tokens and the logits of the last."""
        cache, given = (Cache() if cached else None), ids
        for _ in range(4):
            logits = self(given, cache)[0][:, -1]
            ids = torch.cat((ids, logits.argmax(-1, keepdim=True)), 1)
            given = ids[:, -1:] if cached else ids
        return ids, logits


def test_a_cache_of_a_class_of_its_own_goes_in_and_out():
    t = move(mhc_compile.transform(Cached().eval(), example_inputs=(IDS,), modes=("eval",)))
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        cached, whole = (t.generate(IDS, cached=cached) for cached in (True, False))
    assert torch.equal(cached[0], whole[0])
    assert_close(cached[1], whole[1])
    plain = mhc_compile.revert(t).generate(IDS, cached=False)
    assert not torch.allclose(whole[1], plain[1], atol=1e-3)


class Translating(nn.Module):
    """Its `generate` calls the encoder once, and the decoder for each token."""

    def __init__(self) -> None:
        super().__init__()
        self.embed, self.head = nn.Embedding(WORDS, WIDTH), nn.Linear(WIDTH, WORDS)
        self.encoder, self.decoder = nn.Sequential(Block(), Block()), nn.Sequential(Block(), Block())

    def forward(self, ids: Tensor, targets: Tensor) -> Tensor:
        return self.decode(self.encode(ids), targets)

    def encode(self, ids: Tensor) -> Tensor:
        return self.encoder(self.embed(ids)).mean(1, keepdim=True)

    def decode(self, memory: Tensor, targets: Tensor) -> Tensor:
        return self.head(self.decoder(self.embed(targets) + memory))

    def get_encoder(self) -> nn.Module:
        return self.encoder


def test_an_encoder_and_a_decoder_called_one_by_one_compute_what_the_model_does():
    t = move(mhc_compile.transform(Translating().eval(), example_inputs=(IDS, IDS), modes=("eval",)))
    assert_close(t.decode(t.encode(IDS), IDS), t(IDS, IDS))
    memory = t.get_encoder()(t.embed(IDS)).mean(1, keepdim=True)
    assert_close(t.decode(memory, IDS), t(IDS, IDS))
    t.train().decode(t.encode(IDS), IDS).sum().backward()
    assert all(p.grad is not None for p in t.hyper_connections.parameters())


def generated(model: Any, ids: Tensor, **options: Any) -> Any:
    more = {"do_sample": False, "output_logits": True, "return_dict_in_generate": True}
    return model.generate(ids, max_new_tokens=3, min_new_tokens=3, **more, **options)


@pytest.mark.parametrize("beams", [1, *also(2)])  # beams reorder the cache; what runs is the same
def test_a_llama_generates_with_its_cache_what_it_does_without(beams):
    model = transformers.LlamaForCausalLM(transformers.LlamaConfig(**SIZES, **HEADS)).eval()
    t = move(mhc_compile.transform(model, example_kwargs={"input_ids": IDS, "use_cache": False}, modes=("eval",)))
    cached, whole = (generated(t, IDS, use_cache=use, num_beams=beams) for use in (True, False))
    assert torch.equal(cached.sequences, whole.sequences)
    assert_close(torch.stack(cached.logits), torch.stack(whole.logits), atol=1e-4, rtol=1e-4)
    plain = model(IDS).logits[:, -1]
    assert not torch.allclose(whole.logits[0][::beams], plain, atol=1e-3)


def test_generate_of_t5_calls_its_encoder_with_hyper_connections():
    model = transformers.T5ForConditionalGeneration(transformers.T5Config(**T5, decoder_start_token_id=0)).eval()
    kwargs = {"input_ids": IDS, "decoder_input_ids": IDS[:, :1] * 0, "use_cache": False}
    t = move(mhc_compile.transform(model, example_kwargs=kwargs, modes=("eval",)))
    found = generated(t, IDS, use_cache=False).logits[0]
    assert_close(found, t(**kwargs).logits[:, -1], atol=1e-4, rtol=1e-4)
    assert not torch.allclose(found, model(**kwargs).logits[:, -1], atol=1e-3)
