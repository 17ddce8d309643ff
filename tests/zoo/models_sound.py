"""Models for sound of torchaudio, tiny."""

from __future__ import annotations

import torch

from tests.zoo.model import Model

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
    "wavernn": Model(
        "torchaudio.models:WaveRNN",
        lambda: (torch.randn(2, 1, (10 - 4) * 20), torch.randn(2, 1, 16, 10)),
        {
            "upsample_scales": [4, 5],
            "n_classes": 8,
            "hop_length": 20,
            "n_res_block": 2,
            "n_rnn": 32,
            "n_fc": 16,
            "n_freq": 16,
            "n_hidden": 16,
            "n_output": 16,
        },
    ),
}
