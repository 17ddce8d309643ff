"""A model of torchtitan with hyper-connections that torchtitan's own methods know of."""

from __future__ import annotations

import types
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from typing import Any

import torch
from torch import nn
from torchtitan.models.common.moe import RoutedExperts
from torchtitan.models.common.token_dispatcher import BaseEPTokenDispatcher, LocalTokenDispatcher

from mhc_compile.errors import NothingToTransformError
from mhc_compile.model.reset import reset_parameters
from mhc_compile.programs.ownership import Served
from mhc_compile.transform import transform

_OF_DISPATCHER = ("dispatch", "combine")
_LENGTH = 16
"""Of the sequences that a model is traced with; sizes stay open."""


def example(model: nn.Module, batch: int = 2) -> tuple[tuple[torch.Tensor], dict[str, torch.Tensor]]:
    """The kind of call that torchtitan's trainer makes: arguments and keyword arguments."""
    device = next(model.parameters()).device
    tokens = torch.zeros(batch, _LENGTH, dtype=torch.long, device=device)
    return (tokens,), {"positions": torch.arange(_LENGTH, device=device).expand(batch, -1).contiguous()}


def transformed(model: nn.Module, *, n: int, options: Mapping[str, Any]) -> Served:
    """The model with hyper-connections that torchtitan's methods know of; one that has them already as it is."""
    if not isinstance(model, Served):
        tokens, keywords = example(model)
        with tokens_stay(model):
            model = transform(model, n, example_inputs=tokens, example_kwargs=keywords, modes=("train",), **options)
    if not isinstance(model, Served):
        raise NothingToTransformError(f"{type(model).__name__} has no residual connection that options leave in")
    teach(model)
    return model


@contextmanager
def tokens_stay(model: nn.Module) -> Iterator[None]:
    """While the model is traced, experts keep their tokens: those who send them know no processes yet."""
    found = [m.token_dispatcher for m in model.modules() if isinstance(m, RoutedExperts)]
    sending = [dispatcher for dispatcher in found if isinstance(dispatcher, BaseEPTokenDispatcher)]
    for dispatcher in sending:
        for name in _OF_DISPATCHER:
            vars(dispatcher)[name] = types.MethodType(getattr(LocalTokenDispatcher, name), dispatcher)
    try:
        yield
    finally:
        for dispatcher in sending:
            for name in _OF_DISPATCHER:
                del vars(dispatcher)[name]


def teach(model: nn.Module) -> None:
    """Methods of the instance, so that copies have their own."""
    own: dict[str, Callable[..., Any]] = {
        "init_states": _init_states,  # `init_weights` calls it
        "parallelize": _distribute,
        "verify_module_protocol": _verify,
    }
    vars(model).update({name: types.MethodType(function, model) for name, function in own.items()})


def _init_states(model: Any, **options: Any) -> None:
    type(model).init_states(model, **options)
    reset_parameters(model)


def _distribute(model: Any, parallel_dims: Any) -> None:
    """What takes the place of `parallelize`: clipping wants new parameters on the mesh that the others are on."""
    from torch.distributed.tensor import distribute_module

    type(model).parallelize(model, parallel_dims)
    mesh = parallel_dims.get_optional_mesh("tp")
    if mesh is not None:
        distribute_module(model.hyper_connections, mesh)


def _verify(model: Any) -> None:
    """What takes the place of `verify_module_protocol`: the plain model has passed it, new modules are PyTorch's."""


def mixing_operations(model: Any) -> int:
    """Floating point operations for a token in a training step that are no products with parameters.

    Of C channels of n streams a site reads one, mixes all and writes to all: `n (n + 2)` multiplications and additions
    for each channel, and twice that in the backward.
    """
    sites, n = model.mhc_plan.sites, model._mhc.config.streams
    return sum(6 * n * (n + 2) * site.channels for site in sites)
