"""Example inputs for a model of transformers, read off its `forward` and its configuration."""

from __future__ import annotations

import inspect
from typing import Any

import torch
from torch import Tensor, nn

SEQUENCE = 16
DECODER_SEQUENCE = 8
AUDIO_SAMPLES = 16_000  # one second
TEXT_ONLY = "traced on text alone: give input_ids and pixel_values with --input to see the image tower"


def default_inputs(model: nn.Module, batch: int, device: torch.device) -> tuple[dict[str, Any], tuple[str, ...]]:
    """Keyword inputs for `model`, and notes about what they leave out.

    `input_ids`, `attention_mask` and `bbox` are (B, 16), `decoder_input_ids` (B, 8), images (B, C, H, W) of the
    configured size, videos (B, T, C, H, W), waveforms (B, 16000), spectrograms as the configuration has them.
    """
    config: Any = model.config
    accepted = inspect.signature(model.forward).parameters
    sound = next((name for name in ("input_features", "input_values") if name in accepted), None)
    kwargs: dict[str, Any] = {}
    notes: tuple[str, ...] = ()
    if "input_ids" in accepted and (sound is None or _is_dual(config)):
        kwargs |= _text(config, batch, device, accepted)
    if sound is not None:
        kwargs[sound] = torch.randn(_sound_shape(config, sound, batch), device=device)
    for name in ("pixel_values", "pixel_values_videos"):
        if name in accepted and _needs_pixels(config, kwargs):
            kwargs[name] = torch.randn(_pixel_shape(config, batch, name), device=device)
        elif name == "pixel_values" and name in accepted:
            notes = (TEXT_ONLY,)
    if "decoder_input_ids" in accepted:
        kwargs["decoder_input_ids"] = token_ids(config, batch, DECODER_SEQUENCE, device)
    if "use_cache" in accepted:
        kwargs["use_cache"] = False
    return kwargs, notes


def token_ids(config: Any, batch: int, length: int, device: torch.device | str) -> Tensor:
    """Random tokens (B, L) from the middle of the vocabulary: special tokens lie at its two ends."""
    size = int(getattr(config.get_text_config(), "vocab_size", None) or 100)
    return torch.randint(size // 2, max(size - size // 8, size // 2 + 1), (batch, length), device=device)


def _text(config: Any, batch: int, device: torch.device, accepted: Any) -> dict[str, Any]:
    ids = token_ids(config, batch, SEQUENCE, device)
    kwargs = {"input_ids": ids}
    if "attention_mask" in accepted:
        kwargs["attention_mask"] = torch.ones_like(ids)
    if "bbox" in accepted:
        kwargs["bbox"] = torch.arange(4, device=device).expand(batch, SEQUENCE, 4) * 10
    return kwargs


def _is_dual(config: Any) -> bool:
    """Whether text and sound go in side by side, as in CLAP."""
    return hasattr(config, "audio_config") and hasattr(config, "text_config")


def _needs_pixels(config: Any, kwargs: dict[str, Any]) -> bool:
    """Generative image-text models splice image features in at image tokens, and run without any."""
    spliced = any(hasattr(config, name) for name in ("image_token_id", "image_token_index"))
    return "input_ids" not in kwargs or not spliced


def _pixel_shape(config: Any, batch: int, name: str) -> tuple[int, ...]:
    vision = getattr(config, "vision_config", None) or getattr(config, "backbone_config", None) or config
    size = _first(vision, "image_size", "img_size", "crop_size", default=224)
    height, width = (size, size) if isinstance(size, int) else _pair(size)
    channels = _first(vision, "num_channels", "in_channels", "in_chans", default=3)
    frames = _first(vision, "num_frames", "frames_per_clip", default=None)
    clip = (frames,) if frames and (name == "pixel_values_videos" or frames > 1) else ()
    return (batch, *clip, channels if isinstance(channels, int) else 3, height, width)


def _pair(size: Any) -> tuple[int, int]:
    return (size["height"], size["width"]) if isinstance(size, dict) else (size[0], size[-1])


def _sound_shape(config: Any, name: str, batch: int) -> tuple[int, ...]:
    """Waveform (B, [channels,] samples), or spectrogram: (B, mel, time) for Whisper, (B, time, mel) for others."""
    audio = getattr(config, "encoder_config", None) or getattr(config, "audio_config", None) or config
    mel = _first(audio, "num_mel_bins", "input_feat_per_channel", "feature_projection_input_dim", default=None)
    length = _first(audio, "max_length", default=None)
    if name == "input_values":
        spectrogram = mel is not None and length is not None and config.model_type.endswith("transformer")
        channels = _first(audio, "audio_channels", default=None)  # codecs keep them as an axis
        waveform = (batch, AUDIO_SAMPLES) if channels is None else (batch, channels, AUDIO_SAMPLES)
        return (batch, length, mel) if spectrogram else waveform
    if config.model_type == "whisper":
        return (batch, config.num_mel_bins, 2 * config.max_source_positions)
    return (batch, 96, mel or 80)


def _first(config: Any, *names: str, default: Any) -> Any:
    """The first of the attributes that is there and not None."""
    values = (getattr(config, name, None) for name in names)
    return next((value for value in values if value is not None), default)
