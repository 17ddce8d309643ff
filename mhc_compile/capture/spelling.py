"""What generated code can spell: names, and functions that return their result."""

from __future__ import annotations

import inspect
import keyword
from collections.abc import Iterable

from torch import nn

from mhc_compile.errors import DeferredForwardError, KeywordNameError


def check_names_of(model: nn.Module) -> None:
    """Refuse a model with parameters or buffers that generated code cannot read.

    Raises:
        KeywordNameError: with the name, and how to get rid of it.
    """
    check_names(name for named in (model.named_parameters(), model.named_buffers()) for name, _ in named)


def check_names(names: Iterable[str]) -> None:
    """The same, for dotted names of attributes."""
    for name in names:
        word = next(filter(keyword.iskeyword, name.split(".")), None)
        if word is not None:
            raise KeywordNameError(
                f"{name}: {word!r} is a word of Python's own, so the code that is generated from the model cannot read "
                f"an attribute of that name. Call it otherwise where the model is built, for example {word + '_'!r}"
            )


def check_forward(model: nn.Module) -> None:
    """Refuse a forward that computes only after it was called. A trace would return what it yields or gives at once.

    Raises:
        DeferredForwardError: with what to write.
    """
    forward = model.forward
    for is_one, kind in ((inspect.iscoroutinefunction, "coroutine"), (inspect.isgeneratorfunction, "generator")):
        if is_one(forward):
            raise DeferredForwardError(
                f"{type(model).__name__}.forward is a {kind}, of which there is no graph: transform the module that it "
                "calls, or write a forward that returns tensors"
            )
