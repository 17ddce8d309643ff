"""Compiled programs are found again by a later process, unless the sources of the kernels have changed."""

import json
import shutil
import subprocess
import sys
import uuid
from pathlib import Path
from unittest import mock

import pytest
import torch
from torch._dynamo.utils import counters

from mhc_compile.kernels.inductor import cache_keys as inductor_cache
from mhc_compile.kernels.operators import ops
from tests.kernels.step_inputs import step_inputs

ROOT = Path(__file__).parents[3]
AS_THEY_ARE = "as they are"

PROGRAM = """
import sys
from tests.kernels.inductor.test_cache_keys import print_hits
print_hits(*sys.argv[1:])
"""


def is_hit(tag: str, sources: str) -> bool:
    """Whether the program of a step is found among those of this tag, for kernels with these sources."""
    data = step_inputs(4, ((8, 16), 1))
    torch.compiler.reset()
    counters.clear()
    known = inductor_cache.sources_hash if sources == AS_THEY_ARE else lambda: sources
    with torch.compiler.config.patch(cache_key_tag=tag), mock.patch.object(inductor_cache, "sources_hash", known):
        step = torch.compile(lambda X, y, mix: ops.leave(X, y, mix, n=4, axis=1, scale=0.25))
        step(data.X, data.y, data.mix)
    found = {**counters["inductor"], **counters["aot_autograd"]}
    return bool(found.get("autograd_cache_hit", 0) or found.get("fxgraph_cache_hit", 0))


def print_hits(tag: str, *sources: str) -> None:
    """What a fresh process says."""
    print(json.dumps([is_hit(tag, each) for each in sources]))


@pytest.mark.slow
def test_a_program_is_reused_by_another_process_until_a_kernel_changes() -> None:
    """A tag of its own in the cache of all: in a new one the C++ compiler would begin with the headers of PyTorch."""
    tag = str(uuid.uuid4())
    assert not is_hit(tag, AS_THEY_ARE)
    command = [sys.executable, "-c", PROGRAM, tag, AS_THEY_ARE, "an edited kernel"]
    done = subprocess.run(command, check=True, capture_output=True, text=True, cwd=ROOT)
    assert json.loads(done.stdout.splitlines()[-1]) == [True, False]


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
    shutil.copytree(Path(inductor_cache.__file__).parent.parent, folder, ignore=shutil.ignore_patterns("__pycache__"))
    monkeypatch.setattr(inductor_cache, "__file__", str(folder / "inductor" / "cache_keys.py"))
    hashed = inductor_cache.sources_hash.__wrapped__
    first, *_ = sorted(folder.rglob(f"*{suffix}"))
    before = hashed()
    assert hashed() == before == inductor_cache.sources_hash()
    first.write_text(first.read_text() + " ")
    edited = hashed()
    first.rename(first.with_stem(f"{first.stem}_moved"))
    assert len({before, edited, hashed()}) == 3
