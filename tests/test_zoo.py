"""A representative dozen of the zoo; `make zoo` runs all of it."""

from __future__ import annotations

import pytest
import torch

import mhc_compile
from tests.zoo.checks import check

DOZEN = (
    "hf:llama",  # pre-norm
    "hf:gpt2",
    "hf:bert",  # post-norm
    "hf:t5",  # cross-attention
    "hf:gptj",  # parallel branches
    "hf:mixtral",  # mixture of experts
    "hf:mamba",  # fp32 residual with casts
    "hf:whisper",
    "hf:swin",  # windows between skip and add
    "hf:convnext",  # learned scale
    "timm:vit_tiny_patch16_224",
    "torchvision:resnet18",  # projected shortcuts
    "hf:textnet",  # no residual at all
)


@pytest.mark.slow
@pytest.mark.parametrize("target", DOZEN)
def test_sites_are_found_the_function_is_kept_and_new_parameters_learn(target):
    result = check(target, mhc_compile.transform, dtypes=(torch.float64,))
    assert result.passed, result.failure
