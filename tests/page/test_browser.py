"""The page in headless Chromium, as a person with a keyboard, a phone or a screen reader meets it.

Skipped where there is no Chromium, or where `make browser` has not fetched what drives it.
"""

from __future__ import annotations

import json
import os
import shutil
import subprocess
from pathlib import Path
from typing import Any

import pytest

from mhc_compile.page.page import to_html
from tests.page.pages import large_page, small_page

HERE = Path(__file__).parent
MODULES = Path(os.environ.get("BROWSER_MODULES", HERE.parents[1] / "build" / "browser" / "node_modules"))
CHROMIUM = shutil.which("chromium") or shutil.which("chromium-browser") or shutil.which("google-chrome")

pytestmark = [
    pytest.mark.skipif(CHROMIUM is None, reason="no Chromium is installed: apt-get install chromium"),
    pytest.mark.skipif(not (MODULES / "axe-core").is_dir(), reason="what drives the browser is missing: make browser"),
    pytest.mark.exhaustive,
]


def opened(html: str, folder: Path, *what: str) -> dict[str, Any]:
    """What `check_page.mjs` finds on a page; `load` for the load and the accessibility alone."""
    page = folder / "page.html"
    page.write_text(html, encoding="utf-8")
    command = ["node", str(HERE / "check_page.mjs"), str(MODULES), str(CHROMIUM), str(page), str(folder), *what]
    done = subprocess.run(command, capture_output=True, text=True, timeout=240)
    assert done.returncode == 0, done.stderr
    found: dict[str, Any] = json.loads(done.stdout)
    return found


@pytest.fixture(scope="module")
def small(tmp_path_factory: pytest.TempPathFactory) -> dict[str, Any]:
    return opened(to_html(small_page()), tmp_path_factory.mktemp("small"))


def test_nothing_goes_wrong_and_nothing_is_fetched(small: dict[str, Any]) -> None:
    assert small["errors"] == [] and small["requests"] == []


def test_the_accessibility_checker_finds_no_violation(small: dict[str, Any]) -> None:
    assert small["violations"] == []


def test_the_page_fits_a_phone(small: dict[str, Any]) -> None:
    assert small["overflow"] == {"390": 0, "1440": 0}


def test_the_keyboard_reaches_search_folds_filters_and_sorting(small: dict[str, Any]) -> None:
    keys = small["keyboard"]
    assert keys["first"] == "Skip to the report"
    assert keys["find"] and (keys["before"], keys["searched"], keys["after"]) == (24, 12, 24)
    assert keys["told"] == "12 sites of 24"
    assert keys["summary"] and keys["open"][0] != keys["open"][1]
    assert keys["table"] and keys["rows"] == 12
    assert keys["head"] and keys["sorted"] == "ascending"


def test_a_thousand_sites_load_in_two_seconds(tmp_path: Path) -> None:
    found = opened(to_html(large_page(1000)), tmp_path, "load")
    assert found["seconds"] < 2 and found["violations"] == [] and found["errors"] == []
