"""Calls of a transformed model, or of a module of it: by a program that is there, or by a new trace."""

from __future__ import annotations

import weakref
from collections.abc import Mapping
from typing import Any

from mhc_compile._torch_compat import tree_flatten
from mhc_compile.programs.dispatch import Entry
from mhc_compile.programs.ownership import Served
from mhc_compile.twin.hosts import show
from mhc_compile.twin.hyper_connections import HyperConnections
from mhc_compile.twin.owned import refuse_symbolic_trace, refuse_torchscript_trace


def call_entry(owner: Served, entry: Entry, args: tuple[Any, ...], kwargs: Mapping[str, Any]) -> Any:
    """Run a call through `entry` of `owner`; what it has no program for is traced first.

    Raises:
        TorchScriptError: inside of `torch.jit.trace`.
        SymbolicTraceError: inside of `torch.fx.symbolic_trace`.
    """
    refuse_torchscript_trace()
    refuse_symbolic_trace((args, kwargs))
    follow(owner)
    flat, tree = tree_flatten((args, dict(kwargs)))
    program = entry.find(owner, flat, tree)
    if program is None:
        from mhc_compile.model.retrace import serve_new  # late, for it imports Dynamo

        return serve_new(owner, entry, args, kwargs)
    return program(owner, flat)


def follow(owner: Served) -> None:
    """Let hosts find the parameters that are in use now: adapters put copies in the place of others, and switch."""
    ownership, child = owner._mhc, owner.hyper_connections
    used = child.itself
    if ownership.shown is not None and ownership.shown() is used:
        return
    copies = [part for part in child.modules() if isinstance(part, HyperConnections)]
    used.hosts = {name: paths for copy_ in copies for name, paths in copy_.hosts.items()}
    for name, paths in used.hosts.items():
        for path in paths:
            show(owner, used, name, path)
    ownership.shown = weakref.ref(used)
