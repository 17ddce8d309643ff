"""Whether hyper-connections still stand where `init="preserve"` put them, so that the model computes what it did.

Nothing is run for it: a transformed model is function-preserving as long as its new parameters have their initial
values, whatever the weights of the model itself have become.
"""

from __future__ import annotations

import warnings
from collections.abc import Iterator, Sequence
from dataclasses import replace
from typing import TYPE_CHECKING

import torch

from mhc_compile.config import Config
from mhc_compile.errors import NotPreservingError, NotPreservingWarning
from mhc_compile.owner import Transformed
from mhc_compile.variants import specs_of

if TYPE_CHECKING:
    from mhc_compile.passes.parameters import ParameterSpec
    from mhc_compile.passes.plan import Plan


def why_not_preserving(model: Transformed) -> str | None:
    """What keeps a transformed model from computing what the plain one does; None if nothing does."""
    config = model._mhc.config
    if config.reduce == "sum" and config.streams > 1:
        return f"reduce='sum' multiplies the residual stream by n={config.n}"
    for key, spec in _preserving_specs(model._mhc.plans, config):
        if key not in model.hyper_connections:  # it is in another stage of a pipeline
            continue
        for name, parameter in model.hyper_connections[key].named_parameters():
            value = spec.initial_values(_wide(parameter.dtype), parameter.device)[name]
            moved = _moved(parameter.detach(), value)
            if moved is not None:
                return f"hyper_connections[{key!r}].{name} is {moved:.1e} away from the value that keeps the function"
    return None


def check_preserving(model: Transformed, *, strict: bool) -> None:
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


def warn_of_trained(model: Transformed) -> None:
    """Say that a plain checkpoint is about to be loaded beside hyper-connections that were trained for other weights.

    A model that never was function-preserving, by `init="random"`, is used as it is.
    """
    config = model._mhc.config
    reason = why_not_preserving(model) if config.init == "preserve" else None
    if reason is not None:
        warnings.warn(
            f"a checkpoint of the original {type(model).__name__} is loaded beside trained hyper-connections "
            f"({reason}): transform the model anew to start from what the checkpoint computes",
            NotPreservingWarning,
            stacklevel=2,
        )


def _preserving_specs(plans: Sequence[Plan], config: Config) -> Iterator[tuple[str, ParameterSpec]]:
    """The specification of each key as if `init` were `preserve`; the first plan decides, as in `initial_sites`."""
    specs: dict[str, ParameterSpec] = {}
    for plan in plans:
        specs = {**specs_of(plan, replace(config, init="preserve")), **specs}
    yield from specs.items()


def _wide(dtype: torch.dtype) -> torch.dtype:
    return torch.float64 if dtype == torch.float64 else torch.float32


def _moved(parameter: torch.Tensor, value: torch.Tensor) -> float | None:
    """The largest difference, if fp32 (which a cast to fp64 may have followed) does not explain it; None on meta."""
    if parameter.is_meta or not parameter.numel():
        return None
    difference = (parameter.to(value.dtype) - value).abs()
    allowed = torch.finfo(torch.float32).eps * value.abs()
    return None if bool((difference <= allowed).all()) else float(difference.max())
