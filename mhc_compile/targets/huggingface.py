"""`hf:MODEL_TYPE`: any model type of transformers, from its configuration alone, with random weights."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from difflib import get_close_matches
from typing import Any

from torch import nn

from mhc_compile.errors import InvalidOptionError, MhcError, UnknownTargetError
from mhc_compile.targets.huggingface_inputs import default_inputs
from mhc_compile.targets.options import nest
from mhc_compile.targets.target import Target, build_on, cannot_build, device_of, require, unknown_model

# The first head that transformers has for a model type is taken. `MASKED_LM` stands before `CAUSAL_LM` since encoders
# such as BERT have both, and a decoder has only the second.
_GENERATIVE_HEADS = ("SEQ_TO_SEQ_CAUSAL_LM", "SPEECH_SEQ_2_SEQ", "IMAGE_TEXT_TO_TEXT", "MASKED_LM", "CAUSAL_LM", "CTC")
_TASK_HEADS = (
    "IMAGE_CLASSIFICATION",
    "VIDEO_CLASSIFICATION",
    "OBJECT_DETECTION",
    "UNIVERSAL_SEGMENTATION",
    "SEMANTIC_SEGMENTATION",
    "DEPTH_ESTIMATION",
    "AUDIO_CLASSIFICATION",
)


def resolve_huggingface(model_type: str, *, device: str, config: Mapping[str, object], batch: int) -> Target:
    """Build the model of `model_type`'s default configuration, changed by `config`, and inputs for its head.

    Raises:
        MissingPackageError: transformers is not installed.
        UnknownTargetError: transformers has no such model type, or no model class for it.
        InvalidOptionError: `config` names an attribute the configuration does not have, or the model refuses a value.
        FactoryError: the model cannot be built at all.
    """
    return build_huggingface(
        f"hf:{model_type}", lambda: make_config(model_type, nest(config)), device=device, config=config, batch=batch
    )


def build_huggingface(
    name: str,
    settings: Callable[[], Any],
    *,
    device: str,
    config: Mapping[str, object],
    batch: int,
    head: str | None = None,
) -> Target:
    """Build the model of the configuration that `settings` returns, and inputs for its head.

    Raises:
        MhcError: whatever `settings` raises.
        InvalidOptionError: the model refuses a value of `config`, which `settings` is made with.
        FactoryError: the model cannot be built at all.
    """
    with _quiet():
        try:
            made = settings()
            model, notes = build_on(device, lambda: make_model(made, head))
            model.eval()
            kwargs, more = default_inputs(model, batch, device_of(model, device))
        except MhcError:
            raise
        except Exception as error:
            raise cannot_build(name, config, error) from error
    notes = (f"{type(model).__name__} with random weights", *notes, *more)
    return Target(name, model, (), kwargs, notes)


def class_names(saved: Mapping[str, Any]) -> list[str]:
    """The model classes that a saved configuration names."""
    names = saved.get("architectures")
    return [name for name in names if isinstance(name, str)] if isinstance(names, list) else []


def make_config(model_type: str, overrides: Mapping[str, Any]) -> Any:
    """The default configuration of `model_type` with nested `overrides`.

    A part whose overrides name a `model_type` is made anew as that type (`backbone_config.model_type=resnet`).

    Raises:
        UnknownTargetError: there is no such model type.
        InvalidOptionError: the configuration has no such attribute.
    """
    known = require("transformers").CONFIG_MAPPING
    if model_type not in known:
        raise unknown_model("hf", model_type, known.keys())
    kind = known[model_type]
    plain = {key: value for key, value in overrides.items() if not isinstance(value, Mapping)}
    try:
        default = kind()
    except Exception:  # a few configurations have required arguments
        default = kind(**plain)
    return _without_cache(kind(**_arguments(default, overrides)))


def changed(config: Any, overrides: Mapping[str, object]) -> Any:
    """A configuration with options as the command line has them in place of its own.

    Raises:
        InvalidOptionError: it has no such attribute.
    """
    saved = config.to_dict()
    for key, value in _arguments(config, nest(overrides)).items():
        saved[key] = value.to_dict() if hasattr(value, "to_dict") else value
    return _without_cache(type(config).from_dict(saved))


def _without_cache(config: Any) -> Any:
    for part in (config, *vars(config).values()):
        if getattr(part, "use_cache", None):
            part.use_cache = False  # a cache is no part of the function that is traced
    return config


def _arguments(default: Any, overrides: Mapping[str, Any]) -> dict[str, Any]:
    """`overrides` as constructor arguments: a mapping for a part becomes a configuration of that part."""
    arguments: dict[str, Any] = {}
    for key, value in overrides.items():
        if not hasattr(default, key):
            raise _unknown_attribute(default, key)
        part = getattr(default, key)
        nested = isinstance(value, Mapping)
        arguments[key] = _part(part, value) if nested and (hasattr(part, "to_dict") or "model_type" in value) else value
    return arguments


def _part(part: Any, overrides: Mapping[str, Any]) -> Any:
    model_type = overrides.get("model_type", None)
    if model_type is not None and model_type != getattr(part, "model_type", None):
        return make_config(model_type, {key: value for key, value in overrides.items() if key != "model_type"})
    kind = type(part)
    usual = vars(kind())
    changed = {k: v for k, v in vars(part).items() if not k.startswith("_") and (k not in usual or v != usual[k])}
    overrides = {key: value for key, value in overrides.items() if key != "model_type"}
    return kind(**{**changed, **_arguments(part, overrides)})


def _unknown_attribute(config: Any, key: str) -> InvalidOptionError:
    near = get_close_matches(key, [name for name in vars(config) if not name.startswith("_")], n=4)
    hint = f"did you mean {', '.join(near)}?" if near else "see its documentation for the names it has."
    return InvalidOptionError(f"{type(config).__name__} has no attribute {key!r}: {hint}")


def make_model(config: Any, head: str | None = None) -> nn.Module:
    """A model with random weights for `config`.

    Args:
        config: a configuration of transformers.
        head: name of a model class of transformers; by default the first head there is for the model type.
    """
    transformers = require("transformers")
    return getattr(transformers, head or head_class(config))(config)


def head_class(config: Any) -> str:
    """Name of the model class for `config`: the first of a list of heads, else the model without head.

    Raises:
        UnknownTargetError: the model type has no model class of its own.
    """
    auto = require("transformers.models.auto.modeling_auto")
    heads = _GENERATIVE_HEADS if _has_towers(config) else _GENERATIVE_HEADS + _TASK_HEADS
    tables = [getattr(auto, f"MODEL_FOR_{head}_MAPPING_NAMES", {}) for head in heads]
    model_type = config.model_type
    for table in (*tables, auto.MODEL_MAPPING_NAMES):
        if model_type in table:
            names = table[model_type]
            return names if isinstance(names, str) else names[0]
    raise UnknownTargetError(
        f"transformers has a configuration but no model class for {model_type!r}: "
        "it is a part of another model; name that one, or write a factory in a file and give file.py:factory"
    )


def _has_towers(config: Any) -> bool:
    """Whether text and images or sound go in side by side, as in CLIP: a task head would see only one of the two."""
    return hasattr(config, "text_config") and any(hasattr(config, f"{kind}_config") for kind in ("vision", "audio"))


@contextmanager
def _quiet() -> Iterator[None]:
    """Keep the log messages of transformers out of a report."""
    logging = require("transformers.utils.logging")
    verbosity = logging.get_verbosity()
    logging.set_verbosity_error()
    try:
        yield
    finally:
        logging.set_verbosity(verbosity)
