"""Tiny vision, audio, time series and multimodal models."""

from __future__ import annotations

import torch

from tests.zoo.specs import (
    ATTENTION_STAGES,
    BATCH,
    DECODER_SEQUENCE,
    FOUR_DEEP_STAGES,
    FOUR_STAGES,
    HIDDEN,
    PATCHED_SERIES,
    SEQUENCE,
    SERIES,
    SPEECH,
    SWIN,
    VOCABULARY,
    Spec,
    clips,
    forecast,
    image_text,
    images,
    ones,
    text,
    tokens,
    waveform,
)

VISION = {
    "beit": Spec(config={"use_relative_position_bias": True, "layer_scale_init_value": 0.1}),
    "bit": Spec(config={**FOUR_DEEP_STAGES, "num_groups": 4}, inputs=lambda c: images(64)),
    "convnext": Spec(config={**FOUR_STAGES, "patch_size": 4}),
    "focalnet": Spec(
        config={
            "patch_size": 2,
            "embed_dim": 16,
            "hidden_sizes": [32, 32],
            "depths": [2, 2],
            "focal_levels": [2, 2],
            "focal_windows": [3, 3],
        }
    ),
    "glpn": Spec(
        head="GLPNForDepthEstimation",
        config={**ATTENTION_STAGES, "decoder_hidden_size": 16},
        inputs=lambda c: images(64),
    ),
    "levit": Spec(
        config={
            "image_size": 64,
            "patch_size": 16,
            "hidden_sizes": [32, 48, 64],
            "num_attention_heads": [2, 3, 4],
            "depths": [1, 1, 1],
            "key_dim": [8, 8, 8],
            "down_ops": [["Subsample", 8, 4, 4, 2, 2], ["Subsample", 8, 6, 4, 2, 2]],
        }
    ),
    "mgp-str": Spec(head="MgpstrForSceneTextRecognition"),
    "poolformer": Spec(config=FOUR_STAGES, inputs=lambda c: images(64)),
    "regnet": Spec(config={**FOUR_DEEP_STAGES, "groups_width": 8}, inputs=lambda c: images(64)),
    "resnet": Spec(config={**FOUR_DEEP_STAGES, "layer_type": "bottleneck"}, inputs=lambda c: images(64)),
    "resnet_basic": Spec(
        model_type="resnet", config={**FOUR_DEEP_STAGES, "layer_type": "basic"}, inputs=lambda c: images(64)
    ),
    "segformer": Spec(head="SegformerForSemanticSegmentation", config={**ATTENTION_STAGES, "decoder_hidden_size": 32}),
    "swiftformer": Spec(config={"depths": [1, 1, 1, 1], "embed_dims": [16, 24, 32, 48], "image_size": 64}),
    "swin": Spec(config=SWIN),
    "swinv2": Spec(config={**SWIN, "pretrained_window_sizes": [0, 0]}),
    "textnet": Spec(config={"image_size": [64, 64]}),
    "timesformer": Spec(config={"num_frames": 2}, inputs=lambda c: clips(2)),
    "upernet": Spec(
        config={
            "backbone_config": {
                "model_type": "convnext",
                **FOUR_STAGES,
                "out_features": ["stage1", "stage2", "stage3", "stage4"],
            },
            "hidden_size": 32,
            "auxiliary_in_channels": 48,
            "auxiliary_channels": 16,
            "pool_scales": [1, 2],
        },
        inputs=lambda c: images(64),
    ),
    "vitdet": Spec(config={"window_block_indices": [0], "window_size": 4, "residual_block_indices": [1]}),
    "vitpose": Spec(
        head="VitPoseForPoseEstimation",
        config={
            "backbone_config": {
                "model_type": "vitpose_backbone",
                "hidden_size": HIDDEN,
                "num_hidden_layers": 2,
                "num_attention_heads": 4,
                "image_size": [32, 32],
                "patch_size": [8, 8],
                "num_experts": 1,
                "out_indices": [2],
            },
            "scale_factor": 2,
        },
        inputs=lambda c: images(),
    ),
    "vivit": Spec(config={"num_frames": 4, "tubelet_size": [2, 8, 8]}, inputs=lambda c: clips(4)),
    "vjepa2": Spec(
        head="VJEPA2Model",
        config={
            "crop_size": 32,
            "frames_per_clip": 4,
            "pred_hidden_size": 48,
            "pred_num_attention_heads": 4,
            "pred_num_hidden_layers": 2,
            "num_pooler_layers": 1,
        },
        inputs=lambda c: {"pixel_values_videos": torch.randn(1, 4, 3, 32, 32)},
    ),
    "yolos": Spec(config={"num_detection_tokens": 5, "image_size": [32, 32]}),
}

AUDIO = {
    **{
        name: Spec(config={**SPEECH, "vocab_size": VOCABULARY}, inputs=lambda c: waveform(800))
        for name in ("wav2vec2", "hubert", "unispeech")
    },
    "sew": Spec(config=SPEECH, inputs=lambda c: waveform(800)),
    "speecht5": Spec(
        config=SPEECH,
        inputs=lambda c: {**waveform(800), "decoder_input_ids": tokens(BATCH, DECODER_SEQUENCE), "use_cache": False},
    ),
    "encodec": Spec(
        config={
            "num_filters": 4,
            "hidden_size": 16,
            "codebook_dim": 16,
            "codebook_size": 32,
            "upsampling_ratios": [4, 2],
            "num_lstm_layers": 1,
            "target_bandwidths": [24.0],
        },
        inputs=lambda c: {"input_values": torch.randn(BATCH, 1, 320)},
    ),
    "fastspeech2_conformer": Spec(
        config={
            "hidden_size": 32,
            "vocab_size": VOCABULARY,
            "num_mel_bins": 16,
            "encoder_num_attention_heads": 2,
            "decoder_num_attention_heads": 2,
            "speech_decoder_postnet_units": 16,
            "speech_decoder_postnet_layers": 2,
            "encoder_linear_units": 48,
            "decoder_linear_units": 48,
        },
        inputs=lambda c: {
            "input_ids": tokens(1, 8),
            "attention_mask": ones(1, 8),
            "duration_labels": torch.full((1, 8), 2),
            "pitch_labels": torch.randn(1, 8, 1),
            "energy_labels": torch.randn(1, 8, 1),
            "spectrogram_labels": torch.randn(1, 16, 16),
        },
    ),
    **{
        name: Spec(
            config={
                "vocab_size": VOCABULARY,
                "encoder_config": {
                    "num_key_value_heads": 4,
                    "num_mel_bins": mel,
                    "subsampling_conv_channels": 16,
                    "layerdrop": 0.0,
                },
            },
            inputs=lambda c: {"input_features": torch.randn(BATCH, 80, c.encoder_config.num_mel_bins)},
        )
        for name, mel in (("parakeet_ctc", 80), ("lasr_ctc", 32))
    },
    "univnet": Spec(
        head="UnivNetModel",
        config={
            "model_in_channels": 16,
            "model_hidden_channels": 8,
            "num_mel_bins": 16,
            "resblock_kernel_sizes": [3],
            "resblock_stride_sizes": [4],
            "resblock_dilation_sizes": [[1, 3]],
            "kernel_predictor_num_blocks": 2,
            "kernel_predictor_hidden_channels": 16,
        },
        inputs=lambda c: {"input_features": torch.randn(1, 8, 16), "noise_sequence": torch.randn(1, 8, 16)},
    ),
    "whisper": Spec(config={"max_source_positions": 32}),
}

SERIES_MODELS = {
    # Its masked attention views lags as keys, which fits only where both windows are as long as a head is wide (16);
    # without tracing the mask is dropped before it gets there.
    "autoformer": Spec(
        config={**SERIES, "context_length": 16, "label_length": 12, "moving_average": 5},
        inputs=lambda c: forecast(marks=19),
    ),
    "patchtsmixer": Spec(
        config={**PATCHED_SERIES, "d_model": 16}, inputs=lambda c: {"past_values": torch.randn(BATCH, 32, 2)}
    ),
    "patchtst": Spec(config=PATCHED_SERIES, inputs=lambda c: {"past_values": torch.randn(BATCH, 32, 2)}),
    "time_series_transformer": Spec(config=SERIES, inputs=lambda c: forecast()),
}

MULTIMODAL = {
    "idefics": Spec(
        config={"cross_layer_interval": 1, "vision_config": {"embed_dim": HIDDEN}},
        inputs=lambda c: {
            "input_ids": tokens(1),
            "attention_mask": ones(1),
            "pixel_values": torch.randn(1, 1, 3, 32, 32),
            "image_attention_mask": torch.ones(1, SEQUENCE, 1, dtype=torch.long),
            "use_cache": False,
        },
    ),
    "instructblip": Spec(
        config={"num_query_tokens": 4, "text_config": {"model_type": "opt"}, "image_token_index": 7},
        inputs=lambda c: {
            **image_text(c, 4),
            "qformer_input_ids": tokens(1, 6),
            "qformer_attention_mask": ones(1, 6),
        },
    ),
    "internvl": Spec(
        config={"vision_config": {"image_size": [32, 32], "patch_size": [8, 8]}}, inputs=lambda c: image_text(c, 4)
    ),
    "llava": Spec(config={"vision_feature_layer": -1}, inputs=lambda c: image_text(c, 16)),
    "vilt": Spec(
        config={"max_image_length": -1},
        inputs=lambda c: {
            **text(token_type_ids=torch.zeros(BATCH, SEQUENCE, dtype=torch.long)),
            **images(),
            "pixel_mask": torch.ones(BATCH, 32, 32, dtype=torch.long),
        },
    ),
}

OTHER: dict[str, Spec] = {**VISION, **AUDIO, **SERIES_MODELS, **MULTIMODAL}
