"""Compiled programs are found again by a later process, unless the sources of the kernels have changed."""

import json
import os
import shutil
import subprocess
import sys
from pathlib import Path

import pytest
import torch

from mhc_compile.kernels import inductor_cache

PROGRAM = """
import json, sys, torch
from torch._dynamo.utils import counters
from mhc_compile.kernels import inductor_cache, ops
from tests.kernels.step_inputs import step_inputs
if sys.argv[1]:
    inductor_cache.sources_hash = lambda: sys.argv[1]
data = step_inputs(4, ((8, 16), 1))
step = torch.compile(lambda X, y, mix: ops.leave(X, y, mix, n=4, axis=1, scale=0.25))
step(data.X, data.y, data.mix)
print(json.dumps({**counters["inductor"], **counters["aot_autograd"]}))
"""


def hits(folder: Path, sources: str = "") -> bool:
    """Whether a fresh process with this cache finds the program."""
    environment = {**os.environ, "TORCHINDUCTOR_CACHE_DIR": str(folder)}
    command = [sys.executable, "-c", PROGRAM, sources]
    done = subprocess.run(command, env=environment, check=True, capture_output=True, text=True)
    counters = json.loads(done.stdout.splitlines()[-1])
    return bool(counters.get("autograd_cache_hit", 0) or counters.get("fxgraph_cache_hit", 0))


@pytest.mark.slow
def test_a_program_is_reused_until_a_kernel_changes(tmp_path: Path) -> None:
    assert not hits(tmp_path)
    assert hits(tmp_path)
    assert not hits(tmp_path, sources="an edited kernel")


def test_passes_of_the_user_stay() -> None:
    config = torch._inductor.config

    def theirs(graph: object) -> None:
        pass

    with config.patch(post_grad_custom_post_pass=theirs):
        inductor_cache.add_sources_to_cache_keys()
        inductor_cache.add_sources_to_cache_keys()
        first, second = config.post_grad_custom_post_pass
        assert first is theirs
        assert inductor_cache.sources_hash() in second.uuid()


@pytest.mark.parametrize("suffix", [".py", ".h"])
def test_the_hash_changes_with_any_python_or_cpp_source(
    suffix: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    folder = tmp_path / "kernels"
    shutil.copytree(Path(inductor_cache.__file__).parent, folder, ignore=shutil.ignore_patterns("__pycache__"))
    monkeypatch.setattr(inductor_cache, "__file__", str(folder / "inductor_cache.py"))
    hashed = inductor_cache.sources_hash.__wrapped__
    first, *_ = sorted(folder.glob(f"*{suffix}"))
    before = hashed()
    assert hashed() == before == inductor_cache.sources_hash()
    first.write_text(first.read_text() + " ")
    edited = hashed()
    first.rename(first.with_stem(f"{first.stem}_moved"))
    assert len({before, edited, hashed()}) == 3
