"""These tests run Triton's interpreter, which is chosen when kernels are imported: they need a process of their own.

On a machine with a GPU the steps are tested there, too, in any process.
"""

import os
from pathlib import Path

import pytest
import torch

HERE = Path(__file__).parent
ON_DEVICE_TOO = {"test_steps.py"}


def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    if os.environ.get("TRITON_INTERPRET") == "1":
        return
    skip = pytest.mark.skip(reason="needs TRITON_INTERPRET=1 from the start: run by tests/gpu/test_interpreter.py")
    for item in items:
        on_device = torch.cuda.is_available() and item.path.name in ON_DEVICE_TOO
        if HERE in item.path.parents and not on_device:
            item.add_marker(skip)
