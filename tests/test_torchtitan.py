"""torchtitan's models in its own layouts, and its trainer: killed in the middle, going on in another layout."""

from __future__ import annotations

import json
import os
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


def train(folder: Path, steps: int, size: int, *options: str, port: int) -> list[float]:
    """Losses of the steps that were made in this run, with `size` processes."""
    shared = {**os.environ, "WORLD_SIZE": str(size), "MASTER_ADDR": "127.0.0.1", "MASTER_PORT": str(port)}
    command = [sys.executable, "-m", "tests.titan", str(folder), str(steps), "--training.seq_len", "64", *options]
    ranks = [
        subprocess.Popen(command, cwd=ROOT, env={**shared, "RANK": str(r), "LOCAL_RANK": str(r)}) for r in range(size)
    ]
    assert [rank.wait(timeout=900) for rank in ranks] == [0] * size
    return list(json.loads((folder / "losses-0.json").read_text()).values())


def test_a_run_that_was_killed_goes_on_in_another_layout(tmp_path):
    whole, parts = tmp_path / "whole", tmp_path / "parts"
    whole.mkdir(), parts.mkdir()
    tensor_parallel = ("--parallelism.tensor_parallel_degree", "2")
    expected = train(whole, 20, 1, port=29621)
    begun = train(parts, 12, 1, port=29622)  # its last checkpoint is that of step 10
    resumed = train(parts, 20, 2, *tensor_parallel, port=29623)
    assert len(expected) == 20 and expected[-1] < 0.9 * expected[0]
    assert begun == pytest.approx(expected[:12], rel=1e-5)
    assert resumed == pytest.approx(expected[10:], rel=1e-5)
