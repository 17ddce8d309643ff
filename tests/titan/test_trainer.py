"""torchtitan's trainer, killed in the middle and resumed in another layout; begun from a seed checkpoint."""

from __future__ import annotations

import json
import os
import signal
import socket
import subprocess
import sys
from pathlib import Path

import pytest

pytest.importorskip("torchtitan")
pytestmark = [pytest.mark.exhaustive, pytest.mark.slow]  # engines in processes of their own, where installed
ROOT = Path(__file__).parent.parent.parent

FSDP2 = ("--parallelism.data_parallel_shard_degree", "2")
EP2 = ("--parallelism.expert_parallel_degree", "2")
TP2 = ("--parallelism.tensor_parallel_degree", "2")  # with sequence parallelism, as torchtitan has it by default


def train(folder, *options, world=1, steps=20, wanted=0):
    """The losses of each step, by number."""
    folder.mkdir(exist_ok=True)
    with socket.socket() as s:
        s.bind(("127.0.0.1", 0))
        port = s.getsockname()[1]
    base = {**os.environ, "WORLD_SIZE": str(world), "MASTER_ADDR": "127.0.0.1", "MASTER_PORT": str(port)}
    command = [sys.executable, "-m", "tests.titan.trainer", str(folder), str(steps), *options]
    ranks = []
    for rank in range(world):
        env = {**base, "RANK": str(rank), "LOCAL_RANK": str(rank), "GLOO_SOCKET_IFNAME": "lo"}
        with Path(folder, f"log-{rank}.txt").open("w") as log:
            ranks.append(subprocess.Popen(command, cwd=ROOT, env=env, stdout=log, stderr=subprocess.STDOUT))
    codes = [process.wait(timeout=600) for process in ranks]
    assert codes == [wanted] * world, Path(folder, "log-0.txt").read_text()[-3000:]
    return {int(k): v for k, v in json.loads(Path(folder, "losses-0.json").read_text()).items()}


@pytest.fixture(scope="module")
def seed(tmp_path_factory):
    """Options to begin with the same values in every layout, whose random numbers differ."""
    folder = tmp_path_factory.mktemp("seed")
    with pytest.raises(FileNotFoundError):  # nothing is trained
        train(folder, "--checkpoint.create_seed_checkpoint")
    return ("--checkpoint.initial_load_path", str(next(folder.rglob(".metadata")).parent))


def test_a_run_that_begins_from_a_seed_and_is_killed_goes_on_in_another_layout(seed, tmp_path):
    whole = train(tmp_path / "whole", *seed)
    assert sorted(whole) == list(range(1, 21)) and whole[20] < 0.8 * whole[1]
    first = train(tmp_path / "killed", *seed, *FSDP2, world=2, steps=12, wanted=-signal.SIGKILL)
    rest = train(tmp_path / "killed", *seed, *TP2, world=2)
    assert sorted(rest) == list(range(11, 21)), "it begins where the last checkpoint was"
    errors = {step: abs(loss / whole[step] - 1) for losses in (first, rest) for step, loss in losses.items()}
    assert max(errors.values()) <= 1e-5, errors


@pytest.mark.parametrize("options", [("qwen3",), ("deepseek_v3",), ("deepseek_v3", *FSDP2, *EP2)], ids=len)
def test_other_models_are_trained(options, tmp_path):
    losses = train(tmp_path / "run", *options, "--checkpoint.interval", "100", world=2 if EP2[0] in options else 1)
    assert sorted(losses) == list(range(1, 21)) and losses[20] < 0.9 * losses[1]
