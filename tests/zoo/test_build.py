from __future__ import annotations

from mhc_compile.verification.compare import distance
from tests.zoo.build import FIRST, SPECS, build, tiny


def test_models_are_tiny_in_every_part():
    small = tiny("clip", {})
    assert small["text_config"]["hidden_size"] == small["vision_config"]["hidden_size"] == 64
    assert small["vision_config"]["num_hidden_layers"] == 2


def test_every_spec_belongs_to_an_expected_model():
    assert {f"hf:{name}" for name in SPECS} <= set(FIRST) and len(FIRST) == 149


def test_the_same_seed_builds_the_same_model_and_inputs():
    (a, _, x), (b, _, y) = build("hf:bert"), build("hf:bert")
    assert distance(a(**x), b(**y)) == 0.0


def test_training_mode_computes_the_same_layers_every_time():
    config = build("hf:wav2vec2", train=True)[0].config
    assert (config.layerdrop, config.mask_time_prob, config.apply_spec_augment) == (0.0, 0.0, False)
