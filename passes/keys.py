"""Stable names of sites, from the module paths of their branches."""

from __future__ import annotations

import re
from collections import Counter
from collections.abc import Collection, Iterable, Sequence

ROOT_KEY = "site"
"""The key of a site of the model itself, rather than of one of its modules."""

_PARAMETRIZED = re.compile(r"(^|\.)parametrizations(\..*)?$")
_NOT_IDENTIFIER = re.compile(r"\W")


def module_of(weight: str, is_module: bool = False) -> str:
    """Path of the module that owns a parameter: `layers.0.fc.weight` is owned by `layers.0.fc`.

    So is `layers.0.fc.parametrizations.weight.original`: parametrizations come and go, and keys stay.
    """
    return _PARAMETRIZED.sub("", weight if is_module else weight.rpartition(".")[0])


def common_path(paths: Iterable[str]) -> str:
    """The deepest module path that all paths lie in: `a.b.c` and `a.b.d` give `a.b`."""
    split = [p.split(".") for p in paths]
    if not split:
        return ""
    shared = []
    for parts in zip(*split, strict=False):
        if len(set(parts)) > 1:
            break
        shared.append(parts[0])
    return ".".join(shared)


def unique(keys: Sequence[str], taken: Collection[str] = ()) -> list[str]:
    """Number repeated keys in order: a layer used twice gives `layer` and `layer#2`, behind those already taken."""
    seen = Counter(key.partition("#")[0] for key in taken)
    names = []
    for key in keys:
        seen[key] += 1
        names.append(key if seen[key] == 1 else f"{key}#{seen[key]}")
    return names


def identifier(key: str) -> str:
    """The key as a Python identifier, for children and state dicts: `layers.0.mlp#2` is `layers__0__mlp_use2`."""
    name = _NOT_IDENTIFIER.sub("_", key.replace(".", "__").replace("#", "_use"))
    return f"_{name}" if name[:1].isdigit() else name
