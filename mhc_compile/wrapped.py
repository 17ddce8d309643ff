"""Models that cannot be traced as they are, because something was put around their modules before."""

from __future__ import annotations

import torch
from torch import nn

from mhc_compile import _torch_compat as compat
from mhc_compile.errors import CaptureError, WrappedModelError


def reject_wrapped(model: nn.Module) -> None:
    """Refuse compiled and scripted modules, which have no Python forward of their own, and data-parallel wrappers.

    Raises:
        CaptureError: with the order of calls to write instead.
        WrappedModelError: the same, for a wrapper.
    """
    if isinstance(model, (nn.parallel.DistributedDataParallel, nn.DataParallel)):
        wrapper = type(model).__name__
        raise WrappedModelError(
            f"the model is wrapped in {wrapper}, which has listed its parameters already: write "
            f"{wrapper}(mhc_compile.transform(model, ...)), with the model inside, {wrapper.lower()}.module"
        )
    if isinstance(model, torch.jit.ScriptModule):
        raise CaptureError(_plain_first("a ScriptModule", "torch.jit.script cannot follow"))
    if hasattr(model, "_orig_mod"):
        later = "torch.compile(mhc_compile.transform(model, ...)) after"
        raise CaptureError(_plain_first("the result of torch.compile", later))
    for name, module in model.named_modules():
        if compat.COMPILED in module._modules:
            later = f"torch.compile of the {name} of the result, or of the whole result, after"
            raise CaptureError(_plain_first(f"compiled in part, {name} is a result of torch.compile", later))
    if model._compiled_call_impl is not None:  # it would run instead of the rewritten forward
        later = "model = mhc_compile.transform(model, ...) first, model.compile() after"
        raise CaptureError(_plain_first("compiled in place", later))


def _plain_first(kind: str, later: str) -> str:
    return f"the model is {kind}: give the plain module to mhc_compile.transform, {later}"
