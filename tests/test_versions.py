"""Versions of other libraries: those that are promised are the ones that are tested, and others are told once."""

from __future__ import annotations

import importlib.metadata
import re
import sys
import types
import warnings
from pathlib import Path

import pytest

from mhc_compile import _torch_compat as compat
from mhc_compile.config import Config
from mhc_compile.errors import UntestedVersionWarning
from mhc_compile.transform import make_config
from mhc_compile.versions import TESTED, check_versions

ROOT = Path(__file__).parents[1]


def told() -> list[str]:
    with warnings.catch_warnings(record=True) as seen:
        warnings.simplefilter("always")
        check_versions()
    return [str(w.message) for w in seen if w.category is UntestedVersionWarning]


@pytest.mark.parametrize("version", ["0.9.7", "1.99.0.dev3+cpu"])
def test_a_version_outside_of_what_was_tested_is_told_once(version, monkeypatch):
    monkeypatch.setitem(sys.modules, "timm", types.SimpleNamespace(__version__=version))
    (message,) = told()
    assert f"timm {version} " in message and "(1.0)" in message and "timm==1.0.*" in message
    assert not told()


def test_what_is_not_imported_is_no_matter(monkeypatch):
    monkeypatch.delitem(sys.modules, "timm", raising=False)
    assert not told()


@pytest.mark.parametrize("library", TESTED)
def test_what_is_installed_here_or_pinned_for_recipes_is_tested(library):
    try:
        installed = importlib.metadata.version(library)
    except importlib.metadata.PackageNotFoundError:
        installed = re.search(rf'"{library}==([\d.]+)"', (ROOT / "pyproject.toml").read_text())[1]
    first, last = TESTED[library]
    assert first <= tuple(map(int, installed.split(".")[:2])) <= last


def test_every_way_in_asks(monkeypatch):
    monkeypatch.setitem(sys.modules, "timm", types.SimpleNamespace(__version__="7.1"))
    with pytest.warns(UntestedVersionWarning, match=r"timm 7\.1"):
        assert make_config(2, {}) == Config(n=2)


def test_promised_versions_are_the_tested_ones():
    """`make lowest` installs the first of them, CI the last, and the package asks for what lies between."""
    project = (ROOT / "pyproject.toml").read_text()
    for file, end in (("requirements-lowest.txt", 0), ("requirements-ci.txt", 1)):
        pins = dict(re.findall(r"^(\w+)==(\d+\.\d+)", (ROOT / file).read_text(), re.MULTILINE))
        for library in {"torch", "transformers", "timm", "accelerate"}:
            assert pins[library] == ".".join(map(str, TESTED[library][end])), (file, library)
            lowest = re.search(rf'"{library}>=([\d.]+)', project)[1]
            assert tuple(map(int, lowest.split(".")[:2])) == TESTED[library][0]
    first, last = (".".join(map(str, version)) for version in TESTED["torch"])
    assert f"{first} and {last}" == compat.TESTED_VERSIONS
