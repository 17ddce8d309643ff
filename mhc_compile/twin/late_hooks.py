"""Hooks that are registered on modules of a transformed model: what they will not see is said at once."""

from __future__ import annotations

import functools
import warnings
from typing import Any, Protocol

from torch import nn

from mhc_compile.errors import HookNotRunWarning, HookSeesStreamsWarning

_LIBRARIES = ("torch", "accelerate", "deepspeed", "torchtitan", "transformers.utils.output_capturing")
"""Whose hooks take whatever a module is given (they gather parameters, move tensors), or run in traces only."""


class Called(Protocol):
    """What is known of a module that can run generated code: see `Container` in `hosts.py`."""

    called: bool | None
    crossed: bool


def check_hook(module: nn.Module, known: Called, *given: Any) -> None:
    """Warn of a hook on a module that no program calls, or that is called with streams; `given` has the hook in it."""
    check_called(module, known)
    if not known.crossed or any(is_of(value, _LIBRARIES) for value in given if callable(value)):
        return
    warnings.warn(
        f"streams cross the borders of this {type(module).__name__}: a hook on it is given what one residual "
        "connection hands to the next there, not the input and the output of the module, and what it returns takes "
        "the place of that. Register the hook before transform, and it is traced with the model, or use a module "
        "inside the branch",
        HookSeesStreamsWarning,
        stacklevel=3,
    )


def check_called(module: nn.Module, known: Called) -> None:
    """Warn of a hook on a module that no program calls."""
    if known.called is not False:  # nobody knows before the first program
        return
    warnings.warn(
        f"this {type(module).__name__} is not called by the code of the transformed model, so its hooks do not fire, "
        "and fully_shard cannot gather its parameters: it computes nothing in the traced calls, or something else is "
        "computed between its first operation and its last. Use the module around it",
        HookNotRunWarning,
        stacklevel=4,
    )


def is_of(function: Any, libraries: tuple[str, ...]) -> bool:
    """Whether a function comes from a module of one of these names, or below."""
    while isinstance(function, functools.partial):
        function = function.func
    return str(getattr(function, "__module__", "")).startswith(libraries)
