"""The Triton kernels in the interpreter: their tests need a process of their own (`interpreter/conftest.py`)."""

import os
import subprocess
import sys
from pathlib import Path

import pytest

from tests.tables import runs_all

FOLDER = Path(__file__).parent / "interpreter"


@pytest.mark.slow
def test_kernels_run_in_the_interpreter(pytestconfig: pytest.Config) -> None:
    chosen = "" if runs_all(pytestconfig) else "not exhaustive"
    command = [sys.executable, "-m", "pytest", "-q", "-p", "no:xdist", "-m", chosen, str(FOLDER)]
    environment = {**os.environ, "TRITON_INTERPRET": "1"}
    done = subprocess.run(command, env=environment, capture_output=True, text=True)
    assert done.returncode == 0, done.stdout[-4000:] + done.stderr[-1000:]
    assert "skipped" not in done.stdout
