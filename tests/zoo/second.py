"""The second zoo: models of packages that `mhc-compile inspect` does not know by name, some with weights of their own.

Each is named after its package, as in `diffusers:unet2d`. The packages are the extra `zoo2`; where one is missing, its
models are skipped by name.
"""

from __future__ import annotations

import json
import os
from importlib.util import find_spec
from pathlib import Path
from typing import Any

import torch
from torch import nn

from tests.zoo.model import Model
from tests.zoo.models_diffusers import DIFFUSERS
from tests.zoo.models_graph import GRAPH
from tests.zoo.models_image import MONAI, SEGMENTATION, VIT
from tests.zoo.models_pretrained import PRETRAINED
from tests.zoo.models_series import NEURALFORECAST
from tests.zoo.models_sound import SPEECHBRAIN, TORCHAUDIO
from tests.zoo.models_text import LITGPT, X_TRANSFORMERS

_BY_PACKAGE: dict[str, dict[str, Model]] = {
    "diffusers": DIFFUSERS,
    "litgpt": LITGPT,
    "monai": MONAI,
    "neuralforecast": NEURALFORECAST,
    "segmentation_models_pytorch": SEGMENTATION,
    "speechbrain": SPEECHBRAIN,
    "torch_geometric": GRAPH,
    "torchaudio": TORCHAUDIO,
    "vit_pytorch": VIT,
    "x_transformers": X_TRANSFORMERS,
    **PRETRAINED,
}
SECOND: dict[str, Model] = {
    f"{package}:{name}": model for package, models in _BY_PACKAGE.items() for name, model in models.items()
}
EXPECTED_SECOND: dict[str, dict[str, Any]] = json.loads(
    Path(__file__).with_name("expected_sites_second.json").read_text()
)


def build_second(
    target: str, *, train: bool = False, seed: int = 0
) -> tuple[nn.Module, tuple[Any, ...], dict[str, Any]]:
    """The model of one key of `EXPECTED_SECOND`, with positional and keyword inputs for its forward."""
    os.environ["HF_HUB_OFFLINE"] = "1"  # nothing is downloaded
    torch.manual_seed(seed)
    model = SECOND[target].make().train(train)
    return model, *SECOND[target].call()


def missing(target: str) -> str:
    """Why a model cannot be built here, "" if it can: its package is not installed."""
    package = target.partition(":")[0]
    if target not in SECOND or find_spec(package) is not None:
        return ""
    return f"{package} is not installed, `make zoo` installs the packages of the second zoo"
