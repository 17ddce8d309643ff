"""torchtitan's models in its own layouts; its trainer is run by hand, see `tests/titan.py`."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

import pytest

pytest.importorskip("torchtitan")
pytestmark = [pytest.mark.exhaustive, pytest.mark.slow]
ROOT = Path(__file__).parent.parent

HOLD = ["tp2-sp", "fsdp2-tp2-sp", "fsdp2-cp2", "fsdp2-pp2", "fsdp2-pp2-interleaved"]


@pytest.mark.parametrize("layout", HOLD)
def test_a_layout_computes_what_one_process_does(layout):
    command = [sys.executable, "-m", "benchmarks.layouts", "--family", "llama3", "--layout", layout]
    printed = subprocess.run(command, cwd=ROOT, capture_output=True, text=True, check=True, timeout=600).stdout
    errors = printed.splitlines()[-1].split("|")[3:5]
    assert all(float(error) <= 1e-5 for error in errors), printed
