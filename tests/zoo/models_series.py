"""Forecasts of neuralforecast, tiny."""

from __future__ import annotations

from typing import Any

import torch

from tests.zoo.model import Model

HORIZON, PAST, SERIES = 4, 16, 3


def _window(channels: int) -> dict[str, Any]:
    """A window as the trainer of neuralforecast cuts it: values (B, L, channels) and what is left out."""
    values = torch.randn(2, PAST, channels)
    window = {"insample_y": values, "insample_mask": torch.ones_like(values)}
    return {"windows_batch": {**window, "hist_exog": None, "futr_exog": None, "stat_exog": None}}


def _model(path: str, channels: int = 1, **config: Any) -> Model:
    given = {"h": HORIZON, "input_size": PAST, **({"n_series": channels} if channels > 1 else {}), **config}
    return Model(f"neuralforecast.models:{path}", lambda: _window(channels), given)


_ATTENTION = {"hidden_size": 32, "n_heads": 4}
_ENCODER_DECODER = {"hidden_size": 32, "n_head": 4, "conv_hidden_size": 32, "encoder_layers": 2, "decoder_layers": 1}

NEURALFORECAST: dict[str, Model] = {
    "autoformer": _model("Autoformer", **_ENCODER_DECODER, MovingAvg_window=5),
    "bitcn": _model("BiTCN", hidden_size=16),
    "itransformer": _model("iTransformer", SERIES, **_ATTENTION, e_layers=2, d_ff=64),
    "nbeats": _model("NBEATS", mlp_units=3 * [[16, 16]]),
    "nhits": _model("NHITS", mlp_units=3 * [[16, 16]], n_pool_kernel_size=[2, 2, 1], n_freq_downsample=[2, 1, 1]),
    "patchtst": _model("PatchTST", encoder_layers=2, **_ATTENTION, linear_hidden_size=64, patch_len=4, stride=4),
    "softs": _model("SOFTS", SERIES, hidden_size=32, d_core=16, e_layers=2, d_ff=64),
    "tide": _model("TiDE", hidden_size=32, decoder_output_dim=8, temporal_decoder_dim=16, num_encoder_layers=2),
    "timexer": _model("TimeXer", SERIES, patch_len=4, **_ATTENTION, e_layers=2, d_ff=64),
    "transformer": _model("VanillaTransformer", **_ENCODER_DECODER),
    "tsmixer": _model("TSMixer", SERIES, n_block=2, ff_dim=16),
}
