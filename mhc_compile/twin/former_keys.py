"""Checkpoints from before the keys of sites belonged to weights: their entries are loaded under the keys of today."""

from __future__ import annotations

from collections.abc import Iterator, MutableMapping, Sequence
from typing import TYPE_CHECKING, Any

from mhc_compile.twin.header import KEY

if TYPE_CHECKING:
    from mhc_compile.passes.plan.data import Plan


def rename_former(state: MutableMapping[str, Any], plans: Sequence[Plan], prefix: str = "") -> None:
    """Give entries of a state dict that is being loaded the names of today, in place.

    Only a name that no site has today is a former one, and only one that is missing is taken.

    Args:
        state: a flat state dict.
        plans: of the model that takes it.
        prefix: begins the names of the model in it.
    """
    from mhc_compile.passes.plan.keys import identifier  # late

    child = prefix + KEY.partition(".")[0]
    pairs = dict(_former_keys(plans))
    today = {identifier(key) for key in pairs}
    there = {name.removeprefix(f"{child}.").partition(".")[0] for name in state if name.startswith(f"{child}.")}
    for key, former in pairs.items():
        new, old = identifier(key), identifier(former)
        if old in there and old not in today and new not in there:
            for name in [name for name in state if name.startswith(f"{child}.{old}.")]:
                state[f"{child}.{new}.{name.removeprefix(f'{child}.{old}.')}"] = state.pop(name)


def _former_keys(plans: Sequence[Plan]) -> Iterator[tuple[str, str]]:
    """Every key, with the former one if there is one, else with itself."""
    for plan in plans:
        yield from ((site.key, site.former or site.key) for site in plan.sites)
        yield from ((r.key, r.former or r.key) for segment in plan.segments for r in segment.readouts)
