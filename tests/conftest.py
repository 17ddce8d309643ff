"""What holds for every test file."""

from __future__ import annotations

import gc
from collections.abc import Iterator

import pytest
import torch


@pytest.fixture(scope="module", autouse=True)
def _small_heap() -> Iterator[None]:
    """What earlier files imported and compiled is dropped, or left out when garbage is collected.

    Python, Dynamo and this package go over all objects again and again: with those of hundreds of compiled models, the
    last files would take four times as long as by themselves.
    """
    gc.collect()
    gc.freeze()
    yield
    torch.compiler.reset()
