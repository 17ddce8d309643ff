"""These tests run Triton's interpreter, which is chosen when kernels are imported: they need a process of their own."""

import os
from pathlib import Path

import pytest

HERE = Path(__file__).parent


def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    if os.environ.get("TRITON_INTERPRET") == "1":
        return
    skip = pytest.mark.skip(reason="needs TRITON_INTERPRET=1 from the start: run by tests/gpu/test_interpreter.py")
    for item in items:
        if HERE in item.path.parents:
            item.add_marker(skip)
