"""Modules that are compiled one by one, apart from the code around: each has its own limit of recompilations."""

from __future__ import annotations

import types
from collections.abc import Callable
from typing import Any

from torch import nn

from mhc_compile import _torch_compat as compat

RECOMPILE_LIMIT = 64
"""How many kinds of calls Dynamo compiles for one module before it would run the next one plain."""


def compiled_alone(module: nn.Module, forward: Callable[..., Any], backend: Callable[..., Any]) -> Callable[..., Any]:
    """`forward`, a plain function of `module` and inputs, compiled for this module alone.

    Its code object is its own, and so is what Dynamo has compiled for it, and how often.
    """

    def call(module: nn.Module, *args: Any, **kwargs: Any) -> Any:
        return forward(module, *args, **kwargs)

    own = types.FunctionType(call.__code__.replace(), globals(), closure=call.__closure__)
    return compat.compiled_apart(types.MethodType(own, module), backend, RECOMPILE_LIMIT)
