"""A folder of one class, loaded as another that has a part of it, or more: as the library does with plain models."""

from __future__ import annotations

import pytest
import torch
from transformers import (
    BertForSequenceClassification,
    BertModel,
    LlamaForCausalLM,
    LlamaModel,
    MixtralModel,
    T5EncoderModel,
)

import mhc_compile
from mhc_compile.errors import CheckpointMismatchError
from tests.pretrained.folders import FAMILIES, IDS, moved, same


def hidden(model, name=""):
    part = getattr(model, name) if name else model
    return part(input_ids=IDS).last_hidden_state


def test_the_model_without_its_head(llama, saved):
    backbone = mhc_compile.from_pretrained(saved, LlamaModel)
    assert torch.equal(hidden(backbone), hidden(llama, "model"))
    made = mhc_compile.transform(LlamaModel(llama.config), n=2, modes=("eval",), example_inputs=(IDS,))
    names = [(site.key, site.before, site.module, site.weights) for site in backbone.mhc_plan.sites]
    assert names == [(site.key, site.before, site.module, site.weights) for site in made.mhc_plan.sites]
    assert backbone.state_dict().keys() == made.state_dict().keys()


def test_a_model_with_a_head_from_the_folder_of_one_without(saved, llama, tmp_path):
    backbone = mhc_compile.from_pretrained(saved, LlamaModel)
    backbone.save_pretrained(tmp_path)
    assert same(mhc_compile.from_pretrained(tmp_path), backbone)
    whole = mhc_compile.from_pretrained(tmp_path, LlamaForCausalLM)
    assert torch.equal(hidden(whole, "model"), hidden(llama, "model"))
    assert list(whole.hyper_connections) == list(llama.hyper_connections)


@pytest.mark.parametrize(
    ("family", "kind", "part", "into"),
    [
        ("t5", T5EncoderModel, "encoder", ""),
        ("bert", BertModel, "bert", ""),
        ("bert", BertForSequenceClassification, "bert", "bert"),
        ("mixtral", MixtralModel, "model", ""),
    ],
)
def test_a_part_of_a_model_and_another_head(family, kind, part, into, tmp_path):
    make, batch = FAMILIES[family]
    hyper = moved(make(), example_kwargs=batch)
    hyper.save_pretrained(tmp_path)
    loaded = mhc_compile.from_pretrained(tmp_path, kind)
    assert torch.equal(hidden(loaded, into), hidden(hyper, part))


def test_a_class_that_has_no_part_of_it_is_refused(saved):
    with pytest.raises(CheckpointMismatchError, match="of a LlamaForCausalLM, and this T5EncoderModel has no modules"):
        mhc_compile.from_pretrained(saved, T5EncoderModel, config=FAMILIES["t5"][0]().config)
