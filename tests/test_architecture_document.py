"""What `docs/architecture.md` names exists, so that a reader who follows it arrives."""

from __future__ import annotations

import ast
import re
from pathlib import Path

import pytest

ROOT = Path(__file__).parent.parent
TEXT = (ROOT / "docs" / "architecture.md").read_text(encoding="utf-8")
STEPS = re.findall(r"`([\w/]+\.py):(\w+)`", TEXT)
NAMED = sorted(set(re.findall(r"`([\w/]+\.py)`", TEXT)))
ROOMS = [
    file.parent for folder in ("mhc_compile", "passes", "kernels") for file in (ROOT / folder).glob("*/__init__.py")
]


def test_every_step_of_the_way_is_found():
    assert len(STEPS) >= 15


@pytest.mark.parametrize(("file", "function"), STEPS)
def test_a_step_names_a_function_of_its_file(file: str, function: str):
    tree = ast.parse((ROOT / file).read_text())
    assert function in {node.name for node in tree.body if isinstance(node, ast.FunctionDef | ast.ClassDef)}


@pytest.mark.parametrize("name", NAMED)
def test_a_file_that_is_named_exists(name: str):
    assert any(path.is_file() for path in [ROOT / name, ROOT / "mhc_compile" / name]) or list(ROOT.glob(f"*/*/{name}"))


@pytest.mark.parametrize("room", ROOMS, ids=lambda room: room.name)
def test_the_table_has_every_room(room: Path):
    assert f"{room.name}/`" in TEXT
