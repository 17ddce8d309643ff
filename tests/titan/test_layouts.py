"""torchtitan's models in its own layouts."""

from __future__ import annotations

import itertools

import pytest

pytest.importorskip("torchtitan")

from benchmarks.layouts.layout import EXTRAS, FAMILIES, LAYOUTS, exists
from benchmarks.layouts.processes import Cell, results

pytestmark = [pytest.mark.exhaustive, pytest.mark.slow]  # engines in processes of their own, where installed


def _world(cell):
    return LAYOUTS[cell.layout].world


CELLS = [Cell(*names) for names in itertools.product(FAMILIES, LAYOUTS, EXTRAS) if exists(*names[:2])]
GROUPS = [(size, list(same)) for size, same in itertools.groupby(sorted(CELLS, key=_world), key=_world)]


@pytest.mark.parametrize(("size", "cells"), GROUPS, ids=[f"{size} processes" for size, _ in GROUPS])
def test_a_layout_computes_what_one_process_does(size, cells):
    wrong = {}
    for cell, text in results(cells):
        errors = text.partition(" (")[0].split(" / ")
        try:
            holds = all(float(error) <= 1e-5 for error in errors)
        except ValueError:  # the text of an exception
            holds = False
        if not holds:
            wrong[cell.place] = text
    assert not wrong
