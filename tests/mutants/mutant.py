"""Deliberate faults, as data: one text of the package and what it becomes."""

from __future__ import annotations

import tomllib
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path

AREAS = ("detect", "rewrite", "fuse", "kernels", "capture", "model", "calls", "dynamo", "checkpoint", "distributed",
         "cost", "diagnostics")  # fmt: skip
_SOURCES = (".py", ".h")


@dataclass(frozen=True)
class Mutant:
    """One fault.

    Attributes:
        name: what is wrong, in a few words.
        area: one of `AREAS`.
        old: a text that stands exactly once in the sources of the package, in whichever file.
        new: what takes its place.
        tests: files or tests of `make test` that belong to it; no entry that is `exhaustive` only.
        excuse: why nothing catches it, if nothing does.
        own_caches: whether it may leave something wrong in the caches of compiled code.
        interpreted: whether its tests are those that `tests/gpu/test_interpreter.py` runs in Triton's interpreter.
    """

    name: str
    area: str
    old: str
    new: str
    tests: tuple[str, ...]
    excuse: str = ""
    own_caches: bool = False
    interpreted: bool = False


class StaleMutantError(Exception):
    """The text of a mutant is not where it was: the list has to follow the code."""


@dataclass(frozen=True)
class Project:
    """A source tree with a package in it.

    Attributes:
        root: the folder with its `pyproject.toml`.
        package: the name under which it is imported.
    """

    root: Path
    package: str

    def folders(self) -> dict[str, Path]:
        """Folder of each part of the package by import name; some lie beside it (`[tool.setuptools.package-dir]`)."""
        settings = tomllib.loads((self.root / "pyproject.toml").read_text())
        mapped = settings.get("tool", {}).get("setuptools", {}).get("package-dir", {})
        found = {name: self.root / folder for name, folder in mapped.items() if name}
        return {self.package: self.root / self.package, **found}

    def sources(self) -> dict[Path, str]:
        """The text of every source file of the package."""
        found = (path for folder in self.folders().values() for path in folder.rglob("*") if path.suffix in _SOURCES)
        return {path: path.read_text(encoding="utf-8") for path in sorted({path.resolve() for path in found})}

    def find(self, mutant: Mutant, sources: Mapping[Path, str] | None = None) -> Path:
        """The file that holds the text of a mutant.

        Args:
            mutant: the fault.
            sources: what `sources` returned; None: read them now.

        Raises:
            StaleMutantError: no file does, or several do, or one does twice.
        """
        counts = {path: text.count(mutant.old) for path, text in (sources or self.sources()).items()}
        places = [path for path, count in counts.items() if count]
        if sum(counts.values()) != 1:
            where = ", ".join(str(path.relative_to(self.root.resolve())) for path in places) or "no file"
            raise StaleMutantError(
                f"{mutant.name}: its text is found {sum(counts.values())} times ({where}) instead of once; write the "
                f"text that does now what this did:\n{mutant.old}"
            )
        return places[0]

    def apply(self, mutant: Mutant) -> Path:
        """Put the fault into the tree, which should be a copy, and return the file that has it now.

        Raises:
            StaleMutantError: see `find`.
        """
        path = self.find(mutant)
        path.write_text(path.read_text(encoding="utf-8").replace(mutant.old, mutant.new), encoding="utf-8")
        return path
