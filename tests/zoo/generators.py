"""The language models of the zoo as a user has them: with the head that generates, and their cache."""

from __future__ import annotations

import inspect
from dataclasses import dataclass, field
from typing import Any

import torch
from torch import nn
from transformers.models.auto import modeling_auto as auto

from mhc_compile.targets.huggingface import make_config, make_model
from mhc_compile.targets.huggingface_inputs import default_inputs
from tests.zoo.build import EXPECTED, SPECS, tiny
from tests.zoo.specs import BATCH, Spec

_HEADS = ("SEQ_TO_SEQ_CAUSAL_LM", "SPEECH_SEQ_2_SEQ", "IMAGE_TEXT_TO_TEXT", "CAUSAL_LM")
_OF_THE_CALL = ("use_cache", "decoder_input_ids")  # which `generate` and labels stand for


@dataclass(frozen=True)
class Generator:
    """A model that generates.

    Attributes:
        model: in evaluation mode, its cache as its configuration has it by default.
        inputs: what `generate` is given.
        labels: what a training step is given besides.
        more: what a call needs besides where it is given no labels.
        generating: inputs of the calls that `generate` makes, if they reach what others do not.
    """

    model: nn.Module
    inputs: dict[str, Any]
    labels: torch.Tensor
    more: dict[str, Any] = field(default_factory=dict)
    generating: dict[str, Any] = field(default_factory=dict)


def generators() -> list[str]:
    """Targets of the zoo whose model type has a head that generates."""
    names = [target.removeprefix("hf:") for target in EXPECTED if target.startswith("hf:")]
    return [f"hf:{name}" for name in names if _head(_model_type(name)) is not None]


def build_generator(target: str, seed: int = 0) -> Generator:
    """The model of one of `generators()` with seeded random weights."""
    torch.manual_seed(seed)
    name = target.removeprefix("hf:")
    spec = SPECS.get(name, Spec())
    model_type = _model_type(name)
    config = _with_cache(make_config(model_type, tiny(model_type, spec.config, spec.keep)))
    model = make_model(config, _head(model_type)).eval()
    kwargs = spec.inputs(config) if spec.inputs else default_inputs(model, BATCH, torch.device("cpu"))[0]
    labels = kwargs.get("decoder_input_ids", kwargs.get("input_ids"))
    if labels is None or (not config.is_encoder_decoder and labels.shape != kwargs["input_ids"].shape):
        raise ValueError(f"{target} has no inputs that could be labels")
    accepted = inspect.signature(model.forward).parameters
    inputs = {key: value for key, value in kwargs.items() if key in accepted and key not in _OF_THE_CALL}
    more = {key: value for key, value in kwargs.items() if key == "decoder_input_ids"}
    return Generator(model, inputs, labels, more, _second_stream(model, inputs) if "target_mapping" in accepted else {})


def _second_stream(model: Any, inputs: dict[str, Any]) -> dict[str, Any]:
    """XLNet predicts through a second stream, which uses its layers once more."""
    prepared = model.prepare_inputs_for_generation(inputs["input_ids"])
    return {name: value for name, value in prepared.items() if isinstance(value, torch.Tensor)}


def _model_type(name: str) -> str:
    return SPECS.get(name, Spec()).model_type or name


def _head(model_type: str) -> str | None:
    for head in _HEADS:
        names = getattr(auto, f"MODEL_FOR_{head}_MAPPING_NAMES").get(model_type)
        if names is not None:
            return names if isinstance(names, str) else names[0]
    return None


def _with_cache(config: Any) -> Any:
    """Caches as they are by default, which `make_config` turns off; an encoder that may be a decoder becomes one."""
    for part in (config, *vars(config).values()):
        if getattr(part, "use_cache", None) is False:
            part.use_cache = True
    if config.is_encoder_decoder:
        config.decoder_start_token_id = 1  # that of T5 comes with its weights
    elif hasattr(config, "is_decoder"):
        config.is_decoder = True
    return config
