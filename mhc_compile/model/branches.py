"""Branches of residual connections, called by themselves: whoever adds up their results runs plain, and is told.

The function of a branch is the same, but what makes the sum a hyper-connection stands in the code around it: in the
`forward` of a module, or in a method of one, which are doors. A loop of the user's own is none.
"""

from __future__ import annotations

import warnings
from collections.abc import Iterable, Mapping
from typing import Any

from torch import nn

from mhc_compile.errors import PlainBranchError, PlainBranchWarning
from mhc_compile.passes.plan.data import Site
from mhc_compile.twin.hosts import Hosted
from mhc_compile.twin.names import lies_in


class WatchedBranch:
    """Hears of calls of a module that is a branch, or a part of one. A copy of the module is without it."""

    def __init__(self, path: str, key: str, told: list[str], *, strict: bool) -> None:
        """For the module `path`, whose result the site `key` adds; `strict` makes an error of its calls.

        `told` is what those of one model have warned of: one is enough.
        """
        self._path, self._key, self._told, self._strict = path, key, told, strict

    def called(self) -> None:
        """Before a call of the module by itself.

        Raises:
            PlainBranchError: under `strict=True`.
        """
        if self._strict or not self._told:
            self._told.append(self._path)
            _tell(self._path, self._key, self._strict)

    def __deepcopy__(self, memo: dict[int, Any]) -> None:
        """None: nobody adds up what a copy computes, until its owner sets doors anew."""

    def __reduce__(self) -> tuple[type[None], tuple[()]]:
        """See `__deepcopy__`."""
        return type(None), ()


def branches_of(sites: Iterable[Site], modules: Mapping[str, nn.Module]) -> dict[str, str]:
    """The outermost modules that are called by the code that holds a sum, on the way to its weights -> the site's key.

    Args:
        sites: of all plans of a model.
        modules: by name. Those with a site inside have sums of their own, and doors for them.
    """
    known = list(sites)
    places = {site.module for site in known}
    found: dict[str, str] = {}
    for site in known:
        for weight in site.weights:
            path = _called_first(site.module, weight, modules)
            if path and not any(lies_in(place, path) for place in places):
                found.setdefault(path, site.key)
    return found


def _called_first(place: str, weight: str, modules: Mapping[str, nn.Module]) -> str:
    """The first module with code on the way from the module `place` to a weight inside it, "" if there is none."""
    if not lies_in(weight, place):
        return ""
    parts, depth = weight.split("."), len(place.split(".")) if place else 0
    paths = (".".join(parts[:end]) for end in range(depth + 1, len(parts)))
    return next((path for path in paths if isinstance(modules.get(path), Hosted)), "")


def _tell(path: str, key: str, strict: bool) -> None:
    message = (
        f"{path} is called by itself, past the model: it computes the branch of the residual connection {key}, as any "
        "other would its own, and a sum around it, written outside of the code of the model, is a plain one without "
        "hyper-connections. Call the model or the module around it, or write the sum in a method of that module"
    )
    if strict:
        raise PlainBranchError(message)
    warnings.warn(message, PlainBranchWarning, stacklevel=5)


_tell._dynamo_marked_constant = True  # type: ignore[attr-defined]  # said while Dynamo traces, once for each graph
