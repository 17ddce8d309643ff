"""Recipes as they stand in `docs/recipes`: their code is what runs."""

from __future__ import annotations

import re
from pathlib import Path
from typing import Any

FOLDER = Path(__file__).parents[2] / "docs" / "recipes"
_BLOCK = re.compile(r"^```python\n(.*?)^```", re.DOTALL | re.MULTILINE)


def recipes() -> dict[tuple[str, str], str]:
    """File and heading of every recipe -> its code, the blocks of a section one after another."""
    found = {}
    for file in sorted(FOLDER.glob("*.md")):
        for section in re.split(r"^## ", file.read_text(encoding="utf-8"), flags=re.MULTILINE)[1:]:
            code = "\n".join(_BLOCK.findall(section))
            if code:
                found[file.stem, section.partition("\n")[0].strip()] = code
    return found


def run_recipe(file: str, heading: str, /, **given: Any) -> dict[str, Any]:
    """Run a recipe; what it has named afterwards.

    Args:
        file: name of the document.
        heading: of the section.
        **given: what the recipe takes for granted, such as a data set.
    """
    names = {"__name__": f"{file}_recipe", **given}
    exec(compile(recipes()[file, heading], f"{file}.md, {heading}", "exec"), names)
    return names
