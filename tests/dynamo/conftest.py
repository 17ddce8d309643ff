from __future__ import annotations

import pytest
import torch


@pytest.fixture(autouse=True)
def _fresh_dynamo() -> None:
    """Each test compiles anew: a cached graph would hide what the backend does with it."""
    torch.compiler.reset()
