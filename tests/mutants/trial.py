"""Try one fault: in a copy of the tree, with the tests that belong to it."""

from __future__ import annotations

import os
import re
import shutil
import signal
import subprocess
import sys
import tempfile
import time
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from enum import Enum
from pathlib import Path

from tests.mutants.mutant import Mutant, Project

_NOT_COPIED = shutil.ignore_patterns(".git", ".venv", "build", ".*_cache", ".hypothesis", "*.egg-info")
_OUTSIDE = 70

_PROGRAM = f"""
import os, sys, pytest
code = pytest.main(sys.argv[2:])
for name, module in list(sys.modules.items()):
    file = getattr(module, "__file__", None) or ""
    if name.partition(".")[0] == sys.argv[1] and not file.startswith(os.getcwd() + os.sep):
        print(f"{{name}} was imported from {{file}}, outside of the copy")
        code = {_OUTSIDE}
sys.exit(code)
"""
"""pytest, and whether the copy was tested: an editable install names the tree itself for the same modules."""

_FIRST = re.compile(r"^(?:FAILED|ERROR) (\S+\.py(?:::.+?)?)(?: - .*)?$", re.MULTILINE)


class Verdict(Enum):
    """How a trial ended. The value is the sentence shown to a user."""

    CAUGHT = "caught"
    MISSED = "NOT CAUGHT"
    TIMEOUT = "took too long"
    BROKEN = "could not be tried"


@dataclass(frozen=True)
class Outcome:
    """What came of one trial.

    Attributes:
        verdict: how it ended.
        by: the test that failed first, "" if none did.
        seconds: how long the tests ran.
        output: what they printed, for a fault that could not be tried.
    """

    verdict: Verdict
    by: str
    seconds: float
    output: str = ""


def attempt(project: Project, mutant: Mutant, *, timeout: float, caches: Path) -> Outcome:
    """Run the tests of a mutant on a copy of the project that has the fault.

    Args:
        project: left as it is.
        mutant: the fault.
        timeout: seconds until the tests are ended.
        caches: folder of compiled code that trials share.

    Raises:
        StaleMutantError: its text is gone.
    """
    with tempfile.TemporaryDirectory(prefix="mutant-") as folder:
        copy = copied(project, Path(folder).resolve() / "tree")
        copy.apply(mutant)
        caches = Path(folder, "caches") if mutant.own_caches else caches
        return run_tests(copy, mutant.tests, timeout=timeout, caches=caches, interpreted=mutant.interpreted)


def copied(project: Project, target: Path) -> Project:
    """A copy in which every part of the package lies inside of it, so that no editable install is asked for any."""
    shutil.copytree(project.root, target, ignore=_NOT_COPIED, symlinks=True)
    copy = Project(target, project.package)
    for name, folder in copy.folders().items():
        inside = target.joinpath(*name.split("."))
        if not inside.exists():
            inside.symlink_to(folder, target_is_directory=True)
    return copy


def run_tests(
    copy: Project, tests: Sequence[str], *, timeout: float, caches: Path, interpreted: bool = False
) -> Outcome:
    """Run tests of a copy until one fails; those that are `exhaustive` do not count."""
    own = {"PYTHONPATH": str(copy.root), "TORCHINDUCTOR_CACHE_DIR": str(caches), "OMP_NUM_THREADS": "1"}
    own |= {"TRITON_INTERPRET": "1"} if interpreted else {}
    options = ("-x", "-q", "-rfE", "--tb=short", "--show-capture=no", "-m", "not exhaustive", "-p", "no:xdist")
    started = time.monotonic()
    code, output = _run([copy.package, *options, *tests], copy.root, timeout, {**own, "COLUMNS": "500"})
    found = _FIRST.search(output)
    by = found[1] if found and code == 1 else ""
    verdict = {None: Verdict.TIMEOUT, 0: Verdict.MISSED, 1: Verdict.CAUGHT}.get(code, Verdict.BROKEN)
    return Outcome(verdict, by, time.monotonic() - started, output)


def _run(
    arguments: Sequence[str], folder: Path, timeout: float, environment: Mapping[str, str]
) -> tuple[int | None, str]:
    """Exit code and output; the code is None if it took too long."""
    process = subprocess.Popen(
        [sys.executable, "-c", _PROGRAM, *arguments],
        cwd=folder,
        env={**os.environ, **environment},
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        text=True,
        start_new_session=True,  # so that what the tests started ends with them
    )
    try:
        output, _ = process.communicate(timeout=timeout)
    except subprocess.TimeoutExpired:
        os.killpg(process.pid, signal.SIGKILL)
        return None, process.communicate()[0]
    return process.returncode, output
