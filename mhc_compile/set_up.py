"""What a library does to a model at its first call, done before the first trace: a trace cannot take a lock."""

from __future__ import annotations

import sys
import warnings
from typing import Any

from torch import nn

from mhc_compile.looks import trace_hooks_since
from mhc_compile.module_tree import original_class

_INSTALLED = "_output_capturing_hooks_installed"


def finish_set_up(model: nn.Module) -> bool:
    """Install the hooks by which transformers collects hidden states and the like, where they are not there yet.

    They are a part of the traced code. Returns whether there was something to do.
    """
    library: Any = sys.modules.get("transformers.utils.output_capturing")
    if library is None:
        return False
    waiting = [m for m in model.modules() if _collects(original_class(m)) and not getattr(m, _INSTALLED, False)]
    for module in waiting:
        if not getattr(module, _INSTALLED, False):  # it may lie inside one of those before
            with trace_hooks_since(model), warnings.catch_warnings():
                warnings.simplefilter("ignore")
                library.maybe_install_capturing_hooks(module)
    return bool(waiting)


def _collects(kind: type[nn.Module]) -> bool:
    """Whether the forward of a class is decorated with `capture_outputs`, which would install the hooks."""
    forward: Any = kind.forward
    while forward is not None:
        if getattr(getattr(forward, "__code__", None), "co_qualname", "").startswith("capture_outputs."):
            return True
        forward = getattr(forward, "__wrapped__", None)
    return False
