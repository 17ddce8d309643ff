"""Which sites belong to one layer of the model: what a block of sources is counted in."""

from __future__ import annotations

import re
from collections.abc import Iterator, Sequence
from itertools import pairwise

from mhc_compile.passes.plan.data import Site

_NUMBER = re.compile(r"\d+")


def layers_of(sites: Sequence[Site]) -> dict[str, str]:
    """Site key -> name of its layer, for the sites of one segment.

    A layer is named by the key down to the first number in which keys differ that are alike before it: of
    `encoder.block.3.layer.0` that is `encoder.block.3`, also where it is the same module used again (`block#3`). Where
    keys are alike nowhere (`attns.3`, `mlps.3`), their first number is the layer, and where they have none, the module
    whose code holds the add.
    """
    paths = {site.key: _parts(site.key) for site in sites}
    depth = min((d for one, other in pairwise(paths.values()) for d in _numbered(one, other)), default=None)
    if depth is not None:
        return {key: ".".join(path[: depth + 1]) for key, path in paths.items()}
    numbers = {site.key: _NUMBER.findall(site.key.partition("#")[0])[:1] for site in sites}
    if all(numbers.values()):
        return {key: number for key, (number,) in numbers.items()}
    return {site.key: site.module for site in sites}


def _parts(key: str) -> list[str]:
    """The key in parts, how often its weights were used before in front: a layer used again is another layer."""
    path, _, use = key.partition("#")
    return [f"use{use or 1}", *path.split(".")]


def _numbered(one: Sequence[str], other: Sequence[str]) -> Iterator[int]:
    """Where two paths part, if a number is all that differs there."""
    depth = next((i for i, (a, b) in enumerate(zip(one, other, strict=False)) if a != b), None)
    if depth is not None and _NUMBER.sub("", one[depth]) == _NUMBER.sub("", other[depth]):
        yield depth
