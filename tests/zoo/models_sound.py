"""Models for sound of torchaudio and speechbrain, tiny."""

from __future__ import annotations

import torch

from tests.zoo.finished import woken
from tests.zoo.model import Model, Part

_WAVES = {
    "extractor_mode": "group_norm",
    "extractor_conv_layer_config": [(32, 10, 5), (32, 3, 2), (32, 2, 2)],
    "extractor_conv_bias": False,
    "encoder_embed_dim": 32,
    "encoder_projection_dropout": 0.1,
    "encoder_pos_conv_kernel": 16,
    "encoder_pos_conv_groups": 4,
    "encoder_num_layers": 2,
    "encoder_num_heads": 4,
    "encoder_attention_dropout": 0.1,
    "encoder_ff_interm_features": 64,
    "encoder_ff_interm_dropout": 0.1,
    "encoder_dropout": 0.1,
    "encoder_layer_norm_first": False,
    "encoder_layer_drop": 0.0,
    "aux_num_out": None,
}

TORCHAUDIO: dict[str, Model] = {
    "conformer": Model(
        "torchaudio.models:Conformer",
        lambda: (torch.randn(2, 12, 32), torch.tensor([12, 9])),
        {"input_dim": 32, "num_heads": 4, "ffn_dim": 64, "num_layers": 2, "depthwise_conv_kernel_size": 5},
    ),
    "conv_tasnet": Model(
        "torchaudio.models:ConvTasNet",
        lambda: (torch.randn(2, 1, 160),),
        {
            "enc_num_feats": 16,
            "enc_kernel_size": 8,
            "msk_num_feats": 16,
            "msk_num_hidden_feats": 32,
            "msk_num_layers": 2,
            "msk_num_stacks": 2,
        },
    ),
    "emformer": Model(
        "torchaudio.models:Emformer",
        lambda: (torch.randn(2, 9, 32), torch.tensor([8, 6])),
        {
            "input_dim": 32,
            "num_heads": 4,
            "ffn_dim": 64,
            "num_layers": 2,
            "segment_length": 4,
            "right_context_length": 1,
        },
    ),
    "wav2vec2": Model("torchaudio.models:wav2vec2_model", lambda: (torch.randn(2, 800),), _WAVES),
    "wavlm": Model(
        "torchaudio.models:wavlm_model",
        lambda: (torch.randn(2, 800),),
        {**_WAVES, "encoder_num_buckets": 32, "encoder_max_distance": 64, "encoder_layer_norm_first": True},
    ),
    "wavernn": Model(
        "torchaudio.models:WaveRNN",
        lambda: (torch.randn(2, 1, (7 - 4) * 4), torch.randn(2, 1, 16, 7)),
        {
            "upsample_scales": [2, 2],
            "n_classes": 8,
            "hop_length": 4,
            "n_res_block": 2,
            "n_rnn": 32,
            "n_fc": 16,
            "n_freq": 16,
            "n_hidden": 16,
            "n_output": 16,
        },
    ),
}

_LOBES = "speechbrain.lobes.models"
_DUAL_PATH = f"{_LOBES}.dual_path"
_CHUNKS = Part(f"{_DUAL_PATH}:SBTransformerBlock", {"num_layers": 1, "d_model": 32, "nhead": 4, "d_ffn": 64})

SPEECHBRAIN: dict[str, Model] = {
    "branchformer": Model(
        f"{_LOBES}.transformer.Branchformer:BranchformerEncoder",
        lambda: {"src": torch.randn(2, 10, 32)},
        {
            "num_layers": 2,
            "d_model": 32,
            "nhead": 4,
            "kernel_size": 5,
            "csgu_linear_units": 64,
            "attention_type": "regularMHA",
        },
    ),
    "conformer": Model(
        f"{_LOBES}.transformer.Conformer:ConformerEncoder",
        lambda: {"src": torch.randn(2, 10, 32), "pos_embs": torch.randn(1, 19, 32)},
        {"num_layers": 2, "d_model": 32, "d_ffn": 64, "nhead": 4, "kernel_size": 5},
    ),
    "conv_tasnet": Model(
        f"{_LOBES}.conv_tasnet:MaskNet",
        lambda: (torch.randn(2, 16, 20),),
        {"N": 16, "B": 16, "H": 32, "P": 3, "X": 2, "R": 2, "C": 2},
    ),
    "diffwave": Model(
        f"{_LOBES}.DiffWave:DiffWave",
        lambda: (torch.randn(2, 1, 512), torch.tensor([3, 7]), torch.randn(2, 8, 2)),
        {
            "input_channels": 8,
            "residual_layers": 3,
            "residual_channels": 16,
            "dilation_cycle_length": 2,
            "total_steps": 10,
        },
        finish=woken,
    ),
    "ecapa_tdnn": Model(
        f"{_LOBES}.ECAPA_TDNN:ECAPA_TDNN",
        lambda: (torch.randn(2, 12, 20),),
        {
            "input_size": 20,
            "lin_neurons": 16,
            "channels": [32, 32, 32, 32, 96],
            "attention_channels": 16,
            "res2net_scale": 4,
            "se_channels": 16,
        },
    ),
    "hifigan": Model(
        f"{_LOBES}.HifiGAN:HifiganGenerator",
        lambda: (torch.randn(2, 16, 12),),
        {
            "in_channels": 16,
            "out_channels": 1,
            "resblock_type": "1",
            "resblock_dilation_sizes": [[1, 2, 3], [1, 2, 3]],
            "resblock_kernel_sizes": [3, 5],
            "upsample_kernel_sizes": [4],
            "upsample_initial_channel": 32,
            "upsample_factors": [2],
        },
    ),
    "sepformer": Model(
        f"{_DUAL_PATH}:Dual_Path_Model",
        lambda: (torch.randn(2, 32, 24),),
        {
            "in_channels": 32,
            "out_channels": 32,
            "intra_model": _CHUNKS,
            "inter_model": _CHUNKS,
            "num_layers": 2,
            "K": 8,
        },
    ),
    "transformer_asr": Model(
        f"{_LOBES}.transformer.TransformerASR:TransformerASR",
        lambda: {"src": torch.randn(2, 10, 16), "tgt": torch.randint(1, 50, (2, 6))},
        {
            "tgt_vocab": 50,
            "input_size": 16,
            "d_model": 32,
            "nhead": 4,
            "num_encoder_layers": 2,
            "num_decoder_layers": 1,
            "d_ffn": 64,
            "causal": False,
        },
    ),
}
