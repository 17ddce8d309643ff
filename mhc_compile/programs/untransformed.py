"""Models without hyper-connections yet: the only ones that take some."""

from __future__ import annotations

from torch import nn
from torch.nn.parameter import is_lazy

from mhc_compile.errors import AlreadyTransformedError, LazyParametersError, NotAModuleError
from mhc_compile.twin.hosts import Hosted
from mhc_compile.twin.hyper_connections import HyperConnections
from mhc_compile.twin.owned import Owner


def check_module(model: object) -> nn.Module:
    """The argument, if it is a module.

    Raises:
        NotAModuleError: it is none.
        LazyParametersError: its parameters have no shapes yet.
    """
    if not isinstance(model, nn.Module):
        hint = "write an instance, Model(), not the class" if isinstance(model, type) else "pass a torch.nn.Module"
        raise NotAModuleError(f"got {model!r}, which is no torch.nn.Module: {hint}")
    lazy = next((n for n, p in (*model.named_parameters(), *model.named_buffers()) if is_lazy(p)), None)
    if lazy is not None:
        raise LazyParametersError(f"{lazy} gets its shape at the first call: call the model once on real inputs first")
    return model


def check_untransformed(model: object) -> nn.Module:
    """The argument, if it is a module without hyper-connections.

    Raises:
        NotAModuleError: it is no module.
        AlreadyTransformedError: it or one of its submodules was made by `transform`, or compiled by `backend`.
    """
    model = check_module(model)
    for name, module in model.named_modules():
        if isinstance(module, (Owner, Hosted, HyperConnections)):
            raise AlreadyTransformedError(
                f"{name or 'the model'} already has hyper-connections: write mhc_compile.revert(model) first, "
                "or transform only the outer model (behind mhc_compile.backend: del model.hyper_connections)"
            )
    return model
