"""A transformed model as what serves its calls may know it: how it was made, and its programs."""

from __future__ import annotations

import weakref
from dataclasses import dataclass, field, replace
from typing import Any

from mhc_compile.passes.plan.data import Plan
from mhc_compile.programs.dispatch import FORWARD, Entry
from mhc_compile.programs.program import Program
from mhc_compile.twin.hyper_connections import HyperConnections
from mhc_compile.twin.owned import Conversion, Owner


@dataclass
class Ownership(Conversion):
    """What a transformed model keeps besides its parameters.

    Attributes:
        entries: name of a module that was called from outside, "" for the model, with that of a method behind a colon
            -> what serves its calls. They are derived data: pickles leave them out, and copies keep programs that hold
            no tensors; what is missing is traced again at the first call that needs it.
        shown: the hyper-connections that hosts find, see `mhc_compile.model.serve.follow`.
        sums: adds up gradients over processes; None where the model is not distributed.
    """

    entries: dict[str, Entry] = field(default_factory=dict)
    shown: weakref.ref[HyperConnections] | None = None
    sums: Any = None  # a `GradientSums`, which imports torch.distributed.tensor

    @property
    def programs(self) -> list[Program]:
        """The programs of the model itself."""
        return self.entry("").programs

    def entry(self, path: str, method: str = FORWARD) -> Entry:
        """What serves calls of a module, or of another method of it."""
        key = path if method == FORWARD else f"{path}:{method}"
        return self.entries.setdefault(key, Entry(path, method=method))

    def __getstate__(self) -> dict[str, Any]:
        return {**vars(self), "entries": {}, "shown": None, "sums": None}

    def __deepcopy__(self, memo: dict[int, Any]) -> Ownership:
        return replace(
            self, entries={path: entry.for_copy() for path, entry in self.entries.items()}, shown=None, sums=None
        )


class Served(Owner):
    """The base of `mhc_compile.model.owner.Transformed`, the mixin of transformed models."""

    _mhc: Ownership
    mhc_plan: Plan
