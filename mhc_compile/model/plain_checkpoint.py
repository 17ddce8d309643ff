"""Checkpoints of the original model, loaded into a model that has hyper-connections."""

from __future__ import annotations

from typing import Any

from mhc_compile.model.preserved import warn_of_trained
from mhc_compile.model.reset import materialise
from mhc_compile.twin.hyper_connections import CHILD
from mhc_compile.twin.owned import Owner


def complete_plain(owner: Owner, state_dict: dict[str, Any], prefix: str, *, assign: bool) -> None:
    """Add hyper-connections to the copy of a plain state dict that is being loaded, which satisfies strict loading.

    They stay as they are. Only those on the meta device, which have no values, get initial ones, where PyTorch is to
    take over the tensors of the state dict (`assign`).
    """
    if _is_most_of(owner, state_dict, prefix):
        warn_of_trained(owner)
    state_dict.update(owner.hyper_connections.state_dict(prefix=f"{prefix}{CHILD}.", keep_vars=True))
    if assign:
        materialise(owner, state_dict, prefix)


def _is_most_of(owner: Owner, state_dict: dict[str, Any], prefix: str) -> bool:
    """Whether it is a checkpoint of the model, and not of an adapter or of another part of it."""
    sizes = {name: p.numel() for name, p in owner.named_parameters() if not name.startswith(f"{CHILD}.")}
    there = sum(size for name, size in sizes.items() if f"{prefix}{name}" in state_dict)
    return 2 * there >= sum(sizes.values())
