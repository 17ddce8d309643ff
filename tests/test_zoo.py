"""Representative models of the zoo; `make zoo` runs all of it."""

from __future__ import annotations

import pytest
import torch

import mhc_compile
from tests.tables import also
from tests.zoo.calls import check_calls
from tests.zoo.checks import check
from tests.zoo.doors import check_doors

FEW = (
    "torchvision:resnet18",  # projected shortcuts
)
MORE = (
    "hf:t5",  # cross-attention, which `pretrained/` and `test_caches.py` have
    "hf:bert",  # post-norm, which `pretrained/` has; a module called `self`, which `test_hosts.py` has
    "hf:mixtral",  # mixture of experts: `passes/topologies.py` has one
    "hf:swin",  # windows between skip and add: `passes/test_channels.py` has permutations inside the branch
    "hf:llama",  # pre-norm; `examples` and `test_huggingface.py` have one
    "hf:gpt2",
    "hf:gptj",  # parallel branches
    "hf:mamba",  # fp32 residual with casts
    "hf:whisper",
    "hf:convnext",  # learned scale
    "timm:vit_tiny_patch16_224",
    "hf:textnet",  # no residual at all
)


@pytest.mark.slow
@pytest.mark.parametrize("target", [*FEW, *also(*MORE)])
def test_sites_are_found_the_function_is_kept_and_new_parameters_learn(target):
    result = check(target, mhc_compile.transform, dtypes=(torch.float64,))
    assert result.passed, result.failure


@pytest.mark.slow
@pytest.mark.exhaustive  # `test_caches.py` generates with a Llama, `zoo/test_calls.py` checks small models
@pytest.mark.parametrize("target", ["hf:llama", "hf:t5", "hf:mamba", "hf:bart"])
def test_language_models_train_and_generate_as_they_are(target):
    result = check_calls(target)
    assert result.passed, result.failure


@pytest.mark.slow
@pytest.mark.parametrize("target", ["torchvision:resnet18", *also("hf:t5", "hf:swin", "timm:vit_tiny_patch16_224")])
def test_modules_called_from_outside_compute_what_they_do_inside(target):
    result = check_doors(target)
    assert result.passed, result.failure
