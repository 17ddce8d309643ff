"""What a graph break costs besides the cut: behind some of them the model's code runs with Dynamo switched off."""

from __future__ import annotations

import warnings
from collections.abc import Iterable

from mhc_compile.dynamo.frame import Origin
from mhc_compile.errors import UncompiledCodeWarning

_SEQUENTIAL = (
    "the segments of checkpoint_sequential, but the last one, run with Dynamo switched off, that is, without "
    "hyper-connections: checkpoint each block itself, as in x = checkpoint(block, x, use_reentrant=False)"
)
_DISABLED = (
    "a function under torch.compiler.disable and all that it calls run without hyper-connections: call blocks outside "
    "of it"
)


def remark_on(reason: str) -> str:
    """What runs without hyper-connections behind a break for this reason, and what to write instead; else ""."""
    if "checkpoint_sequential" in reason:
        return _SEQUENTIAL
    return _DISABLED if "torch.compiler.disable" in reason else ""


def warn_of_segments(origins: Iterable[Origin]) -> None:
    """Warn of graphs that end at `checkpoint_sequential`. What is disabled is so on purpose; `explain` lists it."""
    found = {o.break_location: remark for o in origins if (remark := remark_on(o.break_reason)) == _SEQUENTIAL}
    for location, remark in found.items():
        warnings.warn(f"at {location}, {remark}", UncompiledCodeWarning, stacklevel=2)
