"""The code of the tutorial and of the page on projections runs as it stands there, block after block."""

from __future__ import annotations

import re
from pathlib import Path

import pytest

DOCS = Path(__file__).parents[1] / "docs"
_BLOCK = re.compile(r"^```python\n(.*?)^```", re.DOTALL | re.MULTILINE)


@pytest.mark.parametrize("name", ["tutorial", "own_projection"])
def test_a_page_runs_from_top_to_bottom(name: str, tmp_path: Path) -> None:
    blocks = _BLOCK.findall((DOCS / f"{name}.md").read_text(encoding="utf-8"))
    assert len(blocks) >= 2
    names = {"__name__": name, "folder": tmp_path}
    for number, block in enumerate(blocks):
        exec(compile(block, f"{name}.md, block {number}", "exec"), names)


def test_every_page_has_a_place_in_the_site() -> None:
    told = set(re.findall(r": ([\w/]+\.md)$", (DOCS.parent / "mkdocs.yml").read_text(encoding="utf-8"), re.MULTILINE))
    pages = {str(path.relative_to(DOCS)) for path in DOCS.rglob("*.md")}
    assert told == pages | {"contributing.md"}
