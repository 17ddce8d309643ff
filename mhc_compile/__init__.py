"""Rewrite the residual connections of any PyTorch model into manifold-constrained hyper-connections.

    model = mhc_compile.transform(model, n=4, example_inputs=(x,))

The functions are imported here by name because some of them share it with the module they come from.
"""

from __future__ import annotations

import importlib
from typing import TYPE_CHECKING, Any

from mhc_compile import errors
from mhc_compile.config import Config
from mhc_compile.dynamo.backend import Backend, backend
from mhc_compile.dynamo.explain import Explanation, explain
from mhc_compile.former_modules import know_former_modules
from mhc_compile.model.reset import reset_parameters
from mhc_compile.optimizers.groups import parameter_groups
from mhc_compile.passes.plan.data import Plan
from mhc_compile.pretrained import enable_from_pretrained, from_pretrained
from mhc_compile.traced import rewrite
from mhc_compile.transform import plan, revert, transform, verify

if TYPE_CHECKING:
    from mhc_compile.cost.estimate import estimate
    from mhc_compile.diagnostics.diagnose import diagnose, status
    from mhc_compile.diagnostics.recorder import Recorder
    from mhc_compile.verification.examine import Verification

__version__ = "0.1.0"

__all__ = [
    "Backend",
    "Config",
    "Explanation",
    "Plan",
    "Recorder",
    "Verification",
    "__version__",
    "backend",
    "diagnose",
    "enable_from_pretrained",
    "errors",
    "estimate",
    "explain",
    "from_pretrained",
    "parameter_groups",
    "plan",
    "reset_parameters",
    "revert",
    "rewrite",
    "status",
    "transform",
    "verify",
]

know_former_modules()

_LATER = frozenset({"checkpoint", "export", "pipeline", "pretrained", "sharded", "torchtitan"})
_NAMES = {
    "Recorder": "diagnostics.recorder",
    "Verification": "verification.examine",
    "diagnose": "diagnostics.diagnose",
    "estimate": "cost.estimate",
    "status": "diagnostics.diagnose",
}
"""Where they lie: in files that need the passes or the kernels, which make half of the time of an import."""


def __getattr__(name: str) -> Any:
    """What not every user needs is imported when it is named."""
    if name in _NAMES:
        return getattr(importlib.import_module(f"{__name__}.{_NAMES[name]}"), name)
    if name not in _LATER:
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    return importlib.import_module(f"{__name__}.{name}")
