"""New parameters that are frozen while a graph is compiled: inner backends leave their gradients out of the code.

Dynamo's guards compile anew when a parameter of the model's own is unfrozen; they do not know the new ones.
"""

from __future__ import annotations

from collections.abc import Callable, Collection, Sequence
from typing import Any

from torch import nn

from mhc_compile.dynamo.inner import Compiled


def as_compiled(parameters: Sequence[nn.Parameter], unfrozen: Collection[int]) -> list[nn.Parameter]:
    """The parameters as a graph is to be compiled for them, the last inputs it takes.

    Args:
        parameters: as they are.
        unfrozen: positions, counted from the end, at which code for frozen ones was once called with others. Those are
            taken as trained: modules that share a graph but not its frozen parameters would compile it in turn.
    """
    count = len(parameters)
    return [
        p if p.requires_grad or i - count not in unfrozen else nn.Parameter(p.detach())
        for i, p in enumerate(parameters)
    ]


def watched(
    code: Compiled,
    uncompiled: Compiled,
    parameters: Sequence[nn.Parameter],
    on_unfrozen: Callable[[Sequence[int]], None],
) -> Compiled:
    """Compiled code that is left for the uncompiled graph once a parameter is trained that was frozen for it.

    Code for trained parameters computes gradients for frozen ones in vain, which is right as well: where all are
    trained, a call costs nothing more.

    Args:
        code: compiled for `parameters`, its last inputs.
        uncompiled: computes the same.
        parameters: see `as_compiled`.
        on_unfrozen: told the positions of such parameters, counted from the end.
    """
    frozen = [i - len(parameters) for i, p in enumerate(parameters) if not p.requires_grad]
    if not frozen:
        return code

    def call(*inputs: Any) -> Any:
        trained = [i for i in frozen if inputs[i].requires_grad]
        if not trained:
            return code(*inputs)
        on_unfrozen(trained)
        return uncompiled(*inputs)

    return call
