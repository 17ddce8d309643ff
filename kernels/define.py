"""Custom operators of PyTorch, as all code of this package that computes is put into a graph.

`torch.library.custom_op` runs the code of an operator behind `torch.compiler.disable`. While any thread of the process
captures a model, that one writes to a dictionary which all threads share, and calls in the others fail now and then
(`KeyError: 'custom'`). So that is taken out.
"""

from __future__ import annotations

from collections.abc import Callable
from functools import wraps
from typing import Any

import torch

from mhc_compile import _torch_compat as compat


def define(
    name: str,
    function: Callable[..., Any],
    fake: Callable[..., Any],
    differentiate: Callable[..., Any],
    keep: Callable[..., None],
    schema: str | None = None,
) -> None:
    """Define the operator `mhc::name`.

    Args:
        name: of the operator.
        function: what it computes, for all devices. It changes none of its arguments, and returns none of them.
        fake: the same for shapes alone.
        differentiate: its backward, as for `register_autograd` of a `torch.library.custom_op`.
        keep: what is kept for it, the `setup_context` there.
        schema: by the annotations of `function` if there is none.
    """
    op = torch.library.custom_op(f"mhc::{name}", function, mutates_args=(), schema=schema)
    op.register_fake(fake)
    op.register_autograd(differentiate, setup_context=keep)
    compat.run_by(op, _unseen(function))


def _unseen(function: Callable[..., Any]) -> Callable[..., Any]:
    """The function without Dynamo, which would compile the code that calls the kernels."""

    @wraps(function)
    def run(*args: Any, **kwargs: Any) -> Any:
        before = compat.set_eval_frame(None)
        try:
            return function(*args, **kwargs)
        finally:
            compat.set_eval_frame(before)

    return run
