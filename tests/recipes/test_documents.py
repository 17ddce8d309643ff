"""Every recipe of `docs/recipes` is run by a test of this folder, and names the versions that are installed."""

from __future__ import annotations

import re
from importlib.metadata import version
from pathlib import Path

from tests.recipes.documents import FOLDER, recipes

CALLS = re.compile(r'run_recipe(?:,|\()\s*"(\w+)", "([^"]+)"')


def test_every_recipe_is_run():
    sources = [file.read_text() for file in Path(__file__).parent.glob("test_*.py")]
    run = {(file, heading) for source in sources for file, heading in CALLS.findall(source)}
    by_table = {("accelerate", "Offloading"), ("accelerate", "Regional compilation")}
    assert set(recipes()) == run | by_table


def test_versions_are_those_of_the_requirements():
    pins = (FOLDER.parents[1] / "requirements-ci.txt").read_text() + (FOLDER.parents[1] / "pyproject.toml").read_text()
    told = re.findall(r"^\| (\w+) \| ([\d.]+\d)", (FOLDER / "README.md").read_text(), re.MULTILINE)
    assert len(told) == 7
    for tool, tested in told:
        assert f"{tool.lower()}=={tested}" in pins
        if tool.lower() not in ("trl", "torchao"):
            assert version(tool.lower()) == tested
