"""torchtitan's models on gloo processes: does each layout compute what one process does? Prints a table in Markdown.

    python -m benchmarks.layouts [--family llama3 ...] [--layout tp2 ...] [--extra none ...] [--plain]

Needs torchtitan 0.3.0. A cell holds the relative errors of loss and gradients after three steps, new parameters moved
by noise first. `--plain` checks the harness: the same without hyper-connections.
"""

from __future__ import annotations

import argparse
import itertools
import sys

from benchmarks.layouts.layout import EXTRAS, FAMILIES, LAYOUTS, exists
from benchmarks.layouts.processes import Cell, results


def main() -> None:
    """The table; what is found is printed to stderr at once."""
    parser = argparse.ArgumentParser(description=__doc__.partition("\n")[0])
    parser.add_argument("--family", nargs="*", default=list(FAMILIES), choices=FAMILIES)
    parser.add_argument("--layout", nargs="*", default=list(LAYOUTS), choices=list(LAYOUTS))
    parser.add_argument("--extra", nargs="*", default=list(EXTRAS), choices=EXTRAS)
    parser.add_argument("--plain", action="store_true", help="without hyper-connections")
    options = parser.parse_args()
    pairs = [(f, name) for name in options.layout for f in options.family if exists(f, name)]
    cells = [Cell(f, name, extra, options.plain) for f, name in pairs for extra in options.extra]
    found: dict[Cell, str] = {}
    for _, same in itertools.groupby(sorted(cells, key=_world), key=_world):
        for cell, text in results(list(same)):
            found[cell] = text
            print(cell.family, cell.layout, cell.extra, text, file=sys.stderr, flush=True)
    print(f"| model | layout | {' | '.join(options.extra)} |\n|---|---{'|---' * len(options.extra)}|")
    for f, name in pairs:
        row = [found[Cell(f, name, extra, options.plain)].partition(" (")[0] for extra in options.extra]
        print(f"| {f} | {name} | {' | '.join(row)} |")


def _world(cell: Cell) -> int:
    return LAYOUTS[cell.layout].world


if __name__ == "__main__":
    main()
