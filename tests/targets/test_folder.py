"""Folders with a saved model."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest
import torch

from mhc_compile import cli, transform
from mhc_compile.errors import FactoryError, InvalidOptionError, MissingPackageError, UnknownTargetError
from mhc_compile.files.record import Record
from mhc_compile.targets import resolve

SIZES = {"hidden_size": 16, "intermediate_size": 16, "num_hidden_layers": 2, "num_attention_heads": 2}
LLAMA = {"model_type": "llama", "architectures": ["LlamaForCausalLM"], "vocab_size": 64, **SIZES}
TOWER = {"hidden_size": 16, "num_hidden_layers": 1, "num_attention_heads": 2, "intermediate_size": 16}
VISION = {**TOWER, "image_size": 32, "patch_size": 16}


def folder(path: Path, config: Any) -> Path:
    path.mkdir(parents=True, exist_ok=True)
    (path / "config.json").write_text(config if isinstance(config, str) else json.dumps(config))
    return path


@pytest.fixture
def llama(tmp_path: Path) -> Path:
    pytest.importorskip("transformers")
    return folder(tmp_path / "llama", LLAMA)


def test_a_folder_of_save_pretrained_is_the_model_without_its_weights(llama: Path) -> None:
    target = resolve(str(llama))
    assert type(target.model).__name__ == "LlamaForCausalLM" and target.name == str(llama)
    assert all(p.is_meta for p in target.model.parameters()) and not target.model.training
    assert len(target.model.model.layers) == 2 and target.model.config.use_cache is False
    assert target.example_kwargs["input_ids"].shape == (2, 16)


@pytest.mark.parametrize("spelling", ["{}/config.json", "hf:{}", "{}/"])
def test_other_ways_to_write_the_same(llama: Path, spelling: str) -> None:
    assert type(resolve(spelling.format(llama)).model).__name__ == "LlamaForCausalLM"


def test_a_folder_below_the_working_directory(llama: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(llama.parent)
    for name in ("llama", "./llama"):
        assert type(resolve(name).model).__name__ == "LlamaForCausalLM"


def test_options_change_what_was_saved_and_leave_the_rest(llama: Path) -> None:
    config = resolve(str(llama), config={"num_hidden_layers": 3}).model.config
    assert (config.num_hidden_layers, config.hidden_size) == (3, 16)
    with pytest.raises(InvalidOptionError, match="did you mean num_hidden_layers"):
        resolve(str(llama), config={"num_hidden_layer": 3})


def test_options_of_a_part(tmp_path: Path) -> None:
    pytest.importorskip("transformers")
    saved = {"model_type": "clip", "architectures": ["CLIPModel"], "text_config": TOWER, "vision_config": VISION}
    target = resolve(str(folder(tmp_path, saved)), config={"vision_config.num_hidden_layers": 3})
    vision = target.model.config.vision_config
    assert (vision.num_hidden_layers, vision.hidden_size) == (3, 16)
    assert target.example_kwargs["pixel_values"].shape == (2, 3, 32, 32)


def test_the_class_that_was_saved_decides_about_the_head(tmp_path: Path) -> None:
    pytest.importorskip("transformers")
    saved = {**LLAMA, "architectures": ["LlamaForSequenceClassification"], "pad_token_id": 0}
    assert type(resolve(str(folder(tmp_path, saved))).model).__name__ == "LlamaForSequenceClassification"


@pytest.mark.parametrize("names", [["MyOwnLlama"], [], None])
def test_a_class_that_transformers_does_not_have_is_that_of_the_model_type(tmp_path: Path, names: Any) -> None:
    pytest.importorskip("transformers")
    target = resolve(str(folder(tmp_path, {**LLAMA, "architectures": names})))
    assert type(target.model).__name__ == "LlamaForCausalLM"
    assert any("MyOwnLlama" in note for note in target.notes) == bool(names)


def test_a_folder_of_timm(tmp_path: Path) -> None:
    pytest.importorskip("timm")
    saved = {
        "architecture": "vit_tiny_patch16_224",
        "num_classes": 7,
        "model_args": {"img_size": [64, 64], "depth": 1},
        "pretrained_cfg": {"input_size": [3, 64, 64]},
    }
    target = resolve(str(folder(tmp_path, saved)), config={"depth": 2})
    assert target.model.num_classes == 7 and len(target.model.blocks) == 2
    assert target.example_inputs[0].shape == (2, 3, 64, 64)


def test_inputs_of_the_command_line(llama: Path) -> None:
    target = resolve(str(llama), inputs=["input_ids=1x5:int64"])
    assert target.example_kwargs["input_ids"].shape == torch.Size([1, 5])


def test_inspect_reports_the_sites(llama: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert cli.main(["inspect", str(llama)]) == cli.OK
    assert "model.layers.{0..1}.mlp" in capsys.readouterr().out


CONFIGS = {
    "half written": ('{"model_type": "llama", "hidd', "cannot be read"),
    "empty": ("", "cannot be read"),
    "no object": ("[1]", "holds a list"),
    "no model": ({"hidden_size": 3}, "names no model_type of transformers and no architecture of timm"),
    "of diffusers": ({"_class_name": "UNet2DModel"}, "but a UNet2DModel.*write a factory"),
    "unknown type": ({"model_type": "llama9"}, "model type 'llama9', which transformers"),
    "own code": ({"model_type": "mine", "auto_map": {"AutoModel": "m.M"}}, "code is in the folder and is not run"),
    "unknown to timm": ({"architecture": "vit_tinny"}, "config.json: timm has no model"),
}


@pytest.mark.parametrize("case", CONFIGS)
def test_a_configuration_that_cannot_be_used_is_one_clear_error(case: str, tmp_path: Path) -> None:
    config, message = CONFIGS[case]
    (tmp_path / "m.py").write_text("raise RuntimeError('code of the folder was run')")
    with pytest.raises(UnknownTargetError, match=message) as error:
        resolve(str(folder(tmp_path, config)))
    assert str(tmp_path / "config.json") in str(error.value)


def test_values_that_the_model_refuses(tmp_path: Path) -> None:
    pytest.importorskip("transformers")
    with pytest.raises((FactoryError, InvalidOptionError), match="cannot be built"):
        resolve(str(folder(tmp_path, {**LLAMA, "hidden_act": "no such function"})))


FILES = {
    "adapter_config.json": "is an adapter: give the folder of the model",
    "model_index.json": "is a pipeline of several models",
    ".metadata": "is a distributed checkpoint",
    "checkpoint-500/config.json": "but .*checkpoint-500 has",
    "model.safetensors": "has no config.json: write the folder",
}


@pytest.mark.parametrize("name", FILES)
def test_a_folder_without_configuration_says_what_it_seems_to_be(name: str, tmp_path: Path) -> None:
    (tmp_path / name).parent.mkdir(exist_ok=True)
    (tmp_path / name).write_text("{}")
    with pytest.raises(UnknownTargetError, match=FILES[name]):
        resolve(str(tmp_path))


@pytest.mark.parametrize(
    ("target", "message"),
    [("./no/such/folder", "There is no folder"), ("model.safetensors", "does not say which code"), ("last.pt", "code")],
)
def test_what_is_no_folder(target: str, message: str) -> None:
    with pytest.raises(UnknownTargetError, match=message):
        resolve(target)


def test_without_the_library(llama: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(__import__("sys").modules, "transformers", None)
    with pytest.raises(MissingPackageError, match="needs transformers"):
        resolve(str(llama))


def test_a_folder_with_hyper_connections_says_which(llama: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert cli.main(["inspect", str(llama)]) == 0 and "the folder holds" not in capsys.readouterr().out
    made = transform(resolve(str(llama)).model, n=2, connection="hc")
    Record.of(made).write(llama)
    assert cli.main(["inspect", str(llama)]) == 0
    told = " ".join(capsys.readouterr().out.split())
    assert "hyper-connections (hc, n = 2, reduce mean)" in told and "--connection hc --n 2 --reduce mean" in told
