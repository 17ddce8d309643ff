"""What is said where a plan holds no site."""

from __future__ import annotations

import warnings

from mhc_compile.config import Config
from mhc_compile.errors import NothingToTransformError, NothingToTransformWarning
from mhc_compile.passes.plan import Plan


def warn_of_nothing(found: Plan, config: Config) -> None:
    """Say that a plan holds no site, and why.

    Raises:
        NothingToTransformError: under `strict=True`.
    """
    reasons = sorted({r.reason.value for r in found.rejected})
    message = (
        f"no residual connection to rewrite among {found.float_adds} floating point adds"
        + (f" ({'; '.join(reasons)})" if reasons else "")
        + ": see print(mhc_compile.plan(model, ...)), and check include, exclude and min_sites"
    )
    if config.strict:
        raise NothingToTransformError(message)
    warnings.warn(f"{message}. The model is returned unchanged", NothingToTransformWarning, stacklevel=3)
