from __future__ import annotations

import sys

import pytest
import torch

from mhc_compile.errors import FactoryError, InvalidOptionError, MissingPackageError, UnknownTargetError
from mhc_compile.targets import resolve

LIBRARIES = [("timm", "vit_tiny_patch16_224"), ("torchvision", "resnet18"), ("transformers", "bert")]


def is_meta(target):
    inputs = [*target.example_inputs, *target.example_kwargs.values()]
    tensors = [*target.model.parameters(), *target.model.buffers(), *(x for x in inputs if isinstance(x, torch.Tensor))]
    return all(t.is_meta for t in tensors)


@pytest.mark.parametrize("name", ["timm:vit_tiny_patch16_224", "torchvision:resnet18", "hf:gpt2", "hf:wav2vec2"])
def test_models_and_inputs_are_on_the_meta_device(name):
    target = resolve(name)
    assert target.name == name and is_meta(target) and not target.model.training


@pytest.mark.parametrize(
    ("name", "config", "shape"),
    [
        ("timm:vit_tiny_patch16_224", {}, (3, 3, 224, 224)),
        ("timm:vit_tiny_patch16_224", {"img_size": 64, "in_chans": 1}, (3, 1, 64, 64)),
        ("timm:swinv2_tiny_window8_256", {}, (3, 3, 256, 256)),
        ("torchvision:inception_v3", {"init_weights": False}, (3, 3, 299, 299)),
        ("torchvision:r3d_18", {}, (3, 3, 16, 224, 224)),
    ],
)
def test_vision_inputs_have_the_declared_size(name, config, shape):
    target = resolve(name, config=config, batch=3)
    assert tuple(target.example_inputs[0].shape) == shape
    target.model(*target.example_inputs)


def test_detection_takes_a_list_and_optical_flow_two_frames():
    assert [
        len(resolve(f"torchvision:{n}").example_inputs) for n in ("ssdlite320_mobilenet_v3_large", "raft_small")
    ] == [1, 2]
    assert isinstance(resolve("torchvision:ssdlite320_mobilenet_v3_large").example_inputs[0], list)


@pytest.mark.parametrize(
    ("model_type", "head", "inputs"),
    [
        ("llama", "LlamaForCausalLM", {"input_ids", "attention_mask", "use_cache"}),
        ("bert", "BertForMaskedLM", {"input_ids", "attention_mask"}),
        ("t5", "T5ForConditionalGeneration", {"input_ids", "attention_mask", "decoder_input_ids", "use_cache"}),
        ("whisper", "WhisperForConditionalGeneration", {"input_features", "decoder_input_ids", "use_cache"}),
        ("vit", "ViTForImageClassification", {"pixel_values"}),
        ("wav2vec2", "Wav2Vec2ForCTC", {"input_values"}),
        ("clip", "CLIPModel", {"input_ids", "attention_mask", "pixel_values"}),
        ("videomae", "VideoMAEForVideoClassification", {"pixel_values"}),
        ("detr", "DetrForObjectDetection", {"pixel_values"}),
    ],
)
def test_a_model_type_gets_its_usual_head_and_the_inputs_of_that_head(model_type, head, inputs):
    target = resolve(f"hf:{model_type}")
    assert type(target.model).__name__ == head
    assert set(target.example_kwargs) == inputs
    assert head in target.notes[0]


@pytest.mark.parametrize(
    ("model_type", "name", "shape"),
    [
        ("wav2vec2", "input_values", (2, 16_000)),
        ("encodec", "input_values", (2, 1, 16_000)),
        ("whisper", "input_features", (2, 80, 3000)),
        ("videomae", "pixel_values", (2, 16, 3, 224, 224)),
    ],
)
def test_sound_and_video_inputs_have_the_axes_of_the_model(model_type, name, shape):
    assert tuple(resolve(f"hf:{model_type}").example_kwargs[name].shape) == shape


def test_an_image_text_model_is_traced_on_text_and_says_so():
    target = resolve("hf:llava")
    assert "pixel_values" not in target.example_kwargs
    assert any("text alone" in note for note in target.notes)


@pytest.mark.parametrize("name", ["hf:bert", "hf:gpt2", "hf:t5"])
def test_default_inputs_run_on_a_real_model(name):
    layers = {"hf:bert": {"num_hidden_layers": 1}, "hf:gpt2": {"n_layer": 1}, "hf:t5": {"num_layers": 1}}[name]
    target = resolve(name, meta=False, config={**layers, "vocab_size": 100})
    assert target.model(**target.example_kwargs).logits.shape[0] == 2


def test_options_change_the_configuration_also_of_its_parts():
    config = {
        "text_config.num_hidden_layers": 3,
        "vision_config.hidden_size": 24,
        "vision_config.num_attention_heads": 2,
    }
    settings = resolve("hf:clip", config=config).model.config
    assert (settings.text_config.num_hidden_layers, settings.vision_config.hidden_size) == (3, 24)
    assert settings.text_config.hidden_size == 512


def test_a_part_can_be_of_another_model_type():
    config = {"backbone_config.model_type": "resnet", "backbone_config.depths": [1, 1, 1, 1]}
    settings = resolve("hf:detr", config={**config, "backbone_config.out_features": ["stage4"]}).model.config
    assert settings.backbone_config.depths == [1, 1, 1, 1]


def test_a_model_larger_than_memory_is_built():
    config = {"hidden_size": 8192, "num_hidden_layers": 80, "intermediate_size": 28672, "num_attention_heads": 64}
    target = resolve("hf:llama", config={**config, "num_key_value_heads": 8, "vocab_size": 128256})
    assert sum(p.numel() for p in target.model.parameters()) > 70e9 and is_meta(target)


@pytest.mark.parametrize(
    ("name", "near"),
    [
        ("timm:vit_tiny_patch16", "timm:vit_tiny_patch16_224"),
        ("torchvision:resnet81", "torchvision:resnet18"),
        ("hf:lama", "hf:llama"),
    ],
)
def test_rejects_an_unknown_model_and_suggests_near_names(name, near):
    with pytest.raises(UnknownTargetError, match=near):
        resolve(name)


def test_rejects_a_model_type_that_is_only_a_part_of_models():
    with pytest.raises(UnknownTargetError, match="no model class for 'align_text_model'"):
        resolve("hf:align_text_model")


@pytest.mark.parametrize("name", ["", "resnet18", "timm:", ":factory", "model.py"])
def test_rejects_a_target_without_form_and_shows_the_forms(name):
    with pytest.raises(UnknownTargetError, match=r"timm:NAME.*file\.py:factory") as error:
        resolve(name)
    assert repr(name) in str(error.value)


def test_rejects_an_unknown_configuration_attribute_and_suggests_near_ones():
    with pytest.raises(InvalidOptionError, match=r"'hiden_size'.*hidden_size"):
        resolve("hf:llama", config={"hiden_size": 8})


@pytest.mark.parametrize("name", ["timm:vit_tiny_patch16_224", "torchvision:resnet18", "hf:bert"])
def test_rejects_an_option_the_model_refuses_and_repeats_it(name):
    option = {"num_attention_heads": 7} if name == "hf:bert" else {"no_such_option": 7}
    with pytest.raises(InvalidOptionError, match=f"{name} cannot be built with {next(iter(option))}=7"):
        resolve(name, config=option)


@pytest.mark.parametrize("batch", [0, -1, 1.5, True])
def test_rejects_a_batch_size_that_is_none(batch):
    with pytest.raises(InvalidOptionError, match="batch="):
        resolve("hf:bert", batch=batch)


@pytest.mark.parametrize(("package", "model"), LIBRARIES)
def test_a_missing_package_is_named_with_the_command_that_installs_it(monkeypatch, package, model):
    scheme = "hf" if package == "transformers" else package
    monkeypatch.setitem(sys.modules, package, None)
    with pytest.raises(MissingPackageError, match=rf"{package}.*pip install mhc-compile\[zoo\]"):
        resolve(f"{scheme}:{model}")


def test_a_library_model_that_cannot_be_built_at_all_is_a_factory_error(monkeypatch):
    import timm

    monkeypatch.setattr(timm, "create_model", lambda *a, **k: 1 / 0)
    with pytest.raises(FactoryError, match=r"timm:resnet18 cannot be built.*ZeroDivisionError"):
        resolve("timm:resnet18")
