"""Tables of parameters: `make test` runs typical entries, `make exhaustive` the others as well."""

from __future__ import annotations

from typing import Any

import pytest


def runs_all(config: pytest.Config) -> bool:
    """Whether every entry of every table runs, as in `make exhaustive`."""
    return "not exhaustive" not in config.getoption("markexpr")


def also(*values: Any) -> list[Any]:
    """More entries of a table, for `make exhaustive`: kinds that differ little from those listed before them.

    A tuple is an entry of several parameters.
    """
    entries = [value if isinstance(value, tuple) else (value,) for value in values]
    return [pytest.param(*entry, marks=pytest.mark.exhaustive) for entry in entries]
