"""The way out of a compiled `forward` to tracing; apart, because naming the decorator imports Dynamo."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import Any, TypeVar

import torch

from mhc_compile.errors import CaptureError
from mhc_compile.owner import Transformed
from mhc_compile.program import Program
from mhc_compile.variants import add_variant

Function = TypeVar("Function", bound=Callable[..., Any])


def _never_compiled(function: Function) -> Function:
    reason = "mhc_compile has not traced this kind of call yet: call the model once before compiling it"
    wrapped: Function = torch.compiler.disable(function, reason=reason)
    return wrapped


@_never_compiled
def trace_now(owner: Transformed, args: tuple[Any, ...], kwargs: Mapping[str, Any]) -> Program:
    """`add_variant`, at which Dynamo breaks the graph; with `fullgraph=True` its message says what to do.

    Raises:
        CaptureError: `torch.export` is at work, whose values exist only while it traces; or see `add_variant`.
    """
    if torch.compiler.is_exporting():
        raise CaptureError(
            f"{type(owner).__name__} has not been traced for this kind of call yet: "
            "call the model once with the inputs to export, with or without torch.no_grad() as in the export, "
            "then export it; a size that shall stay open must be 2 or more"
        )
    return add_variant(owner, args, kwargs)
