"""Whether hyper-connections still stand where `init="preserve"` put them, so that the model computes what it did.

Nothing is run for it: a transformed model is function-preserving as long as its new parameters have their initial
values, whatever the weights of the model itself have become.
"""

from __future__ import annotations

import warnings
from dataclasses import replace

import torch

from mhc_compile.errors import NotPreservingError, NotPreservingWarning
from mhc_compile.kernels.formulas.connections import why_not_kept
from mhc_compile.programs.specs import all_specs
from mhc_compile.programs.unsharded import own_part, placed
from mhc_compile.twin.owned import Owner


def why_not_preserving(model: Owner) -> str | None:
    """What keeps a transformed model from computing what the plain one does; None if nothing does.

    Of a sharded model each process looks at its own part.
    """
    config = model._mhc.config
    if config.reduce == "sum" and config.streams > 1:
        return f"reduce='sum' multiplies the residual stream by n={config.n}"
    if reason := why_not_kept(config.effective_connection, config.streams):
        return reason
    own = model.hyper_connections.itself
    for key, spec in all_specs(model._mhc.plans, replace(config, init="preserve")).items():
        if key not in own:  # it is in another stage of a pipeline
            continue
        for name, parameter in own[key].named_parameters():
            value = spec.initial_values(_wide(parameter.dtype), parameter.device)[name]
            moved = _moved(own_part(parameter.detach()), own_part(placed(value, parameter, source=None)))
            if moved is not None:
                return f"hyper_connections[{key!r}].{name} is {moved:.1e} away from the value that keeps the function"
    return None


def check_preserving(model: Owner, *, strict: bool) -> None:
    """Say that a plain model will compute something else than this one, if so.

    Raises:
        NotPreservingError: under `strict=True`; otherwise it is a warning.
    """
    reason = why_not_preserving(model)
    if reason is None:
        return
    message = (
        f"the plain {type(model).__name__} computes something else than the transformed one: {reason}. Keep the "
        "transformed model and its checkpoints, or freeze model.hyper_connections.requires_grad_(False) while training"
    )
    if strict:
        raise NotPreservingError(message)
    warnings.warn(f"{message}; with mhc_compile.revert(model, strict=True) this is an error", NotPreservingWarning, 3)


def warn_of_trained(model: Owner) -> None:
    """Say that a plain checkpoint is about to be loaded beside hyper-connections without their initial values.

    A model that never was function-preserving, by `init="random"` or its connection, is used as it is.
    """
    config = model._mhc.config
    never = config.init != "preserve" or why_not_kept(config.effective_connection, config.streams)
    reason = None if never else why_not_preserving(model)
    name = model._mhc.original.__name__
    if reason is not None:
        warnings.warn(
            f"a checkpoint of the original {name} is loaded beside hyper-connections that were trained, or have no "
            f"values since to_empty() ({reason}): write mhc_compile.reset_parameters(model) to start from what the "
            "checkpoint computes",
            NotPreservingWarning,
            stacklevel=2,
        )


def _wide(dtype: torch.dtype) -> torch.dtype:
    return torch.float64 if dtype == torch.float64 else torch.float32


def _moved(parameter: torch.Tensor, value: torch.Tensor) -> float | None:
    """The largest difference, if fp32 (which a cast to fp64 may have followed) does not explain it; None on meta."""
    if parameter.is_meta or not parameter.numel():
        return None
    difference = (parameter.to(value.dtype) - value).abs()
    allowed = torch.finfo(torch.float32).eps * value.abs()
    return None if bool((difference <= allowed).all()) else float(difference.max())
