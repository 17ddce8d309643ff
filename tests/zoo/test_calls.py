"""The checks of calls, on a small language model that behaves and on some that do not."""

from __future__ import annotations

from types import SimpleNamespace

import torch
from torch import nn
from torch.nn.functional import cross_entropy
from transformers.modeling_outputs import CausalLMOutput

from mhc_compile.twin.hosts import plain_calls
from tests.zoo.calls import check_calls
from tests.zoo.generators import Generator, build_generator, generators
from tests.zoo.test_doors import Block

IDS = torch.arange(10).reshape(2, 5)


class Language(nn.Module):
    def __init__(self):
        super().__init__()
        self.embed, self.head = nn.Embedding(16, 8), nn.Linear(8, 16)
        self.blocks = nn.Sequential(Block(), Block())
        self.dummy_inputs = {"input_ids": IDS}

    def forward(self, input_ids, labels=None):
        logits = self.head(self.blocks(self.embed(input_ids)))
        loss = None if labels is None else cross_entropy(logits.flatten(0, 1), labels.flatten())
        return CausalLMOutput(loss=loss, logits=logits)

    def generate(self, input_ids, max_new_tokens, use_cache=True, **options):
        logits = []
        for _ in range(max_new_tokens):
            logits.append(self.step(input_ids, use_cache))
            input_ids = torch.cat((input_ids, logits[-1].argmax(-1, keepdim=True)), -1)
        return SimpleNamespace(sequences=input_ids, logits=tuple(logits))

    def step(self, input_ids, use_cache):
        return self(input_ids=input_ids).logits[:, -1]


def checked(kind):
    def build(target):
        torch.manual_seed(0)
        return Generator(kind().eval(), {"input_ids": IDS}, IDS)

    return check_calls("fake", build)


def test_a_good_model_passes_and_every_call_says_which_way_it_went():
    result = checked(Language)
    assert result.passed, result.failure
    assert result.sites == 2 and result.ways == dict.fromkeys(("cache", "no cache", "training"), "one graph")


def test_a_cache_that_changes_the_result_fails_only_where_the_plain_model_keeps_it():
    class Cached(Language):
        def step(self, input_ids, use_cache):
            logits = super().step(input_ids, use_cache)
            return logits + use_cache * hasattr(self, "mhc_plan") * torch.arange(16.0)

    class Forgetful(Language):
        def step(self, input_ids, use_cache):
            return super().step(input_ids, use_cache) + use_cache * torch.arange(16.0)

    assert "generate with its cache and without differ" in checked(Cached).failure
    assert "the plain model's cache changes its own result" in checked(Forgetful).notes[0]


def test_a_generation_that_runs_plain_fails():
    class Plain(Language):
        def generate(self, *args, **options):
            with plain_calls():
                return super().generate(*args, **options)

    class PlainBehindACall(Language):
        def step(self, input_ids, use_cache):
            super().step(input_ids, use_cache)
            with plain_calls():
                return super().step(input_ids, use_cache)

    assert "neither a program nor Dynamo" in checked(Plain).failure
    assert "generate runs plain" in checked(PlainBehindACall).failure


def test_a_loss_without_gradients_in_new_parameters_fails():
    class Cut(Language):
        def forward(self, input_ids, labels=None):
            out = super().forward(input_ids, labels)
            return (
                out
                if labels is None
                else CausalLMOutput(loss=sum(p.sum() for p in self.parameters()), logits=out.logits)
            )

    assert "have no gradient" in checked(Cut).failure


def test_language_models_of_the_zoo_are_built_with_their_cache():
    assert {"hf:llama", "hf:t5", "hf:bart", "hf:whisper", "hf:opt_postnorm"} <= set(generators())
    assert "hf:swin" not in generators()
    given = build_generator("hf:llama")
    assert given.model.config.use_cache and set(given.inputs) == {"input_ids", "attention_mask"}
