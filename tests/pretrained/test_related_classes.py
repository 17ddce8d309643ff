"""A folder of one class, loaded as another that has a part of it, or more: as the library does with plain models."""

from __future__ import annotations

import pytest
import torch
from safetensors.torch import load_file, save_file
from torch.testing import assert_close
from transformers import (
    AutoModel,
    AutoModelForCausalLM,
    BertForSequenceClassification,
    BertModel,
    LlamaForCausalLM,
    LlamaModel,
    MixtralModel,
    PreTrainedConfig,
    PreTrainedModel,
    T5EncoderModel,
)

import mhc_compile
from mhc_compile.errors import CheckpointMismatchError, InvalidOptionError, UnreadableCheckpointError
from tests.pretrained.folders import FAMILIES, IDS, moved, same, small_llama


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


def test_globs_over_other_names_and_learned_readouts(tmp_path):
    hyper = moved(small_llama(num_hidden_layers=2), exclude=("model.layers.0.*",), reduce="learned")
    hyper.save_pretrained(tmp_path)
    loaded = mhc_compile.from_pretrained(tmp_path, LlamaModel)
    assert list(loaded.hyper_connections) == ["layers.1.self_attn", "layers.1.mlp", "layers.1.mlp.readout"]
    assert torch.equal(hidden(loaded), hidden(hyper, "model"))


class Blocks(PreTrainedModel):
    """A base whose one branch is used twice, so that its keys have numbers, and none has a module of its own."""

    config_class = PreTrainedConfig
    base_model_prefix = "model"

    def __init__(self, config):
        super().__init__(config)
        self.up, self.down = torch.nn.Linear(8, 8), torch.nn.Linear(8, 8)
        self.post_init()

    def forward(self, x):
        for _ in range(2):
            x = x + self.down(self.up(x).relu())
        return x

    def _init_weights(self, module):
        pass


class BlocksWithHead(Blocks):
    def __init__(self, config):
        PreTrainedModel.__init__(self, config)
        self.model, self.head = Blocks(config), torch.nn.Linear(8, 8)
        self.post_init()

    def forward(self, x):
        x = self.model(x)
        return x + self.head(x).tanh()


def test_numbered_keys_and_a_site_of_the_head(tmp_path):
    x = torch.randn(2, 3, 8)
    hyper = moved(BlocksWithHead(PreTrainedConfig()), example_kwargs={}, example_inputs=(x,))
    assert list(hyper.hyper_connections) == ["model", "model#2", "head"]
    hyper.save_pretrained(tmp_path)
    loaded = mhc_compile.from_pretrained(tmp_path, Blocks)
    assert list(loaded.hyper_connections) == ["site", "site#2"]
    assert_close(loaded(x), hyper.model(x))


def test_weights_that_are_missing_are_no_random_ones(folder):
    weights = load_file(folder / "model.safetensors")
    del weights["model.layers.0.mlp.up_proj.weight"]
    save_file(weights, folder / "model.safetensors", {"format": "pt"})
    with pytest.raises(UnreadableCheckpointError, match=r"it has no layers\.0\.mlp\.up_proj\.weight"):
        mhc_compile.from_pretrained(folder, LlamaModel)


def test_a_class_that_finds_the_class(saved, llama):
    assert same(mhc_compile.from_pretrained(saved, AutoModelForCausalLM), llama)
    assert isinstance(mhc_compile.from_pretrained(saved, AutoModel), LlamaModel)


@pytest.mark.parametrize("arguments", [(None,), (3,), ("folder", torch.nn.Linear), ("folder", "LlamaModel")])
def test_what_is_no_folder_or_no_class_is_named(arguments, saved):
    folder, *kind = arguments
    with pytest.raises(InvalidOptionError, match=r"folder is a|no class of Transformers' models"):
        mhc_compile.from_pretrained(saved if folder == "folder" else folder, *kind)


def test_a_class_that_has_no_part_of_it_is_refused(saved):
    with pytest.raises(CheckpointMismatchError, match="of a LlamaForCausalLM, and this T5EncoderModel has no modules"):
        mhc_compile.from_pretrained(saved, T5EncoderModel, config=FAMILIES["t5"][0]().config)
