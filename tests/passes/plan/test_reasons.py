"""The list of reasons is a map of the passes: each stands under a file that gives it."""

from __future__ import annotations

import re
from collections.abc import Iterator
from pathlib import Path

import pytest

from mhc_compile.passes.plan import reasons
from mhc_compile.passes.plan.reasons import Reason

ROOT = Path(__file__).parents[3]


def by_files() -> Iterator[tuple[str, tuple[str, ...]]]:
    """Name of a reason, and the files of the comment it stands under."""
    files: tuple[str, ...] = ()
    for line in Path(reasons.__file__).read_text().splitlines():
        if line.startswith("    # "):
            first, *others = re.findall(r"[\w/]+\.py", line)
            folder = first.rpartition("/")[0]
            files = (first, *(other if "/" in other else f"{folder}/{other}" for other in others))
        elif found := re.match(r"    ([A-Z_]+) = ", line):
            yield found[1], files


def test_every_reason_stands_under_a_file() -> None:
    assert [name for name, files in by_files() if files] == [reason.name for reason in Reason]


@pytest.mark.parametrize(("name", "files"), by_files())
def test_the_file_above_a_reason_gives_it(name: str, files: tuple[str, ...]) -> None:
    assert any(f"Reason.{name}" in (ROOT / file).read_text() for file in files)


def test_reasons_are_sentences_of_their_own() -> None:
    assert len({reason.value for reason in Reason}) == len(Reason)
