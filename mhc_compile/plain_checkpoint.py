"""Checkpoints of the original model, loaded into a model that has hyper-connections."""

from __future__ import annotations

from typing import Any

from mhc_compile.hyper_connections import CHILD
from mhc_compile.initial import materialise
from mhc_compile.owned import Owner
from mhc_compile.preserved import warn_of_trained


def complete_plain(owner: Owner, state_dict: dict[str, Any], prefix: str, *, assign: bool) -> None:
    """Add hyper-connections to the copy of a plain state dict that is being loaded, which satisfies strict loading.

    They stay as they are. Only those on the meta device, which have no values, get initial ones, where PyTorch is to
    take over the tensors of the state dict (`assign`).
    """
    warn_of_trained(owner)
    state_dict.update(owner.hyper_connections.state_dict(prefix=f"{prefix}{CHILD}.", keep_vars=True))
    if assign:
        materialise(owner, state_dict, prefix)
