"""Names that a model with hyper-connections needs for itself."""

from __future__ import annotations

import inspect
from collections.abc import Sequence

from torch import nn

from mhc_compile.errors import ReservedNameError
from mhc_compile.passes.plan.data import Plan
from mhc_compile.twin.hyper_connections import CHILD, HyperConnections

PLAN, OWNERSHIP = "mhc_plan", "_mhc"
"""Attributes of a transformed model, see `mhc_compile.model.owner.Transformed`."""

_KINDS = {"_modules": "a child", "_parameters": "a parameter", "_buffers": "a buffer"}
_NOTHING = object()


def check_free(model: nn.Module, names: Sequence[str] = (CHILD,)) -> None:
    """Refuse a model that uses one of these names for something of its own, which would be lost.

    Names inside its submodules are as free as ever.

    Args:
        model: the module that is to hold hyper-connections; those it has already are no obstacle.
        names: `hyper_connections`, and for `mhc_compile.transform` those of its two attributes.

    Raises:
        ReservedNameError: it has a child, parameter, buffer, attribute, method or property of that name.
    """
    for name in names:
        kind = _kind_of(model, name)
        if kind is not None:
            raise ReservedNameError(
                f"{type(model).__name__} has {kind} of its own called {name}, which is where mhc_compile puts what is "
                f"new: give it another name (old checkpoints then want theirs renamed), or hand over a module that "
                f"holds this model, such as torch.nn.Sequential(model), whose own name {name} is free"
            )


def _kind_of(model: nn.Module, name: str) -> str | None:
    """What a model has under a name, in words; None for nothing, and for hyper-connections of this package."""
    for registry, kind in _KINDS.items():
        own = vars(model).get(registry, {})
        if name in own:  # those of scripted modules are no dicts, and have this much
            return None if isinstance(getattr(own[name], "itself", None), HyperConnections) else kind
    # A wrapper that hands on attributes has none of its own, so it is not asked with getattr.
    found = inspect.getattr_static(model, name, _NOTHING)
    if found is _NOTHING or isinstance(found, Plan):  # the empty plan of a model in which nothing was found
        return None
    return "a property" if isinstance(found, property) else "a method" if callable(found) else "an attribute"
