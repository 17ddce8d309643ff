"""The new parameters of a model that is compiled rather than transformed: created once, found again by site key."""

from __future__ import annotations

from collections.abc import Mapping, MutableMapping, Sequence
from typing import TYPE_CHECKING, Any

import torch
from torch import nn

from mhc_compile import _torch_compat as compat
from mhc_compile.config import Config
from mhc_compile.early_optimizer import warn_of_early_optimizers
from mhc_compile.errors import LateParametersError, OtherParametersError
from mhc_compile.header import Header, check_state
from mhc_compile.hyper_connections import CHILD, HyperConnections
from mhc_compile.reserved import check_free
from mhc_compile.specs import initial_sites, specs_of, weights_of

if TYPE_CHECKING:
    from mhc_compile.passes.plan import Plan

Claims = MutableMapping[str, dict[str, tuple[str, ...]]]
"""Function -> frame -> the keys that its graph uses in front of a graph break, in the order of first sight."""

Slots = Sequence[tuple[Mapping[str, Any], str]]
"""Where each parameter is found at a call, so that replacing one works as in any module."""


def connections_of(model: nn.Module) -> HyperConnections | None:
    """The parameters that were created for a model so far."""
    # The modules of a scripted module are no dict and have no `get`.
    child = getattr(model._modules[CHILD], "itself", None) if CHILD in model._modules else None
    return child if isinstance(child, HyperConnections) else None


def create(model: nn.Module, plan: Plan, config: Config, claims: Claims) -> None:
    """Give the model the parameters it lacks for a plan, under `hyper_connections`; those it has must fit.

    Raises:
        OtherParametersError: they were made with other options.
        LateParametersError: DistributedDataParallel would not synchronise them.
        ReservedNameError: the model has something of its own under that name.
    """
    child = connections_of(model) or HyperConnections({}, config, claims).train(model.training)
    _check_fit(child, plan, config)
    child.weights.update(weights_of([plan]))
    lacking = [key for key in specs_of(plan, config) if key not in child]
    if not lacking:
        return
    check_free(model)
    if compat.DistributedDataParallel._get_active_ddp_module() is not None:
        raise LateParametersError(
            f"DistributedDataParallel does not know {CHILD}.{lacking[0]}, so its gradients would differ from rank "
            "to rank: write backend.attach(model, example_inputs) before DistributedDataParallel(model)"
        )
    if CHILD not in model._modules:
        child.in_sequential = type(model).forward is nn.Sequential.forward
        model.add_module(CHILD, child)
        _check_checkpoints(model)
    with torch.inference_mode(False), torch.enable_grad():
        sites = initial_sites([plan], config, model)
        child.add({key: sites[key] for key in lacking})
    warn_of_early_optimizers(model, [p for key in lacking for p in child[key].parameters()])


def fill(child: nn.Module, loaded: MutableMapping[str, torch.Tensor]) -> None:
    """Give parameters the values that were loaded for them, and strike those off the list.

    Raises:
        OtherParametersError: a value has another shape than the parameter.
    """
    found = [
        (name, p, loaded[f"{CHILD}.{name}"]) for name, p in child.named_parameters() if f"{CHILD}.{name}" in loaded
    ]
    for name, parameter, value in found:
        if value.shape != parameter.shape:
            raise OtherParametersError(_mismatch(name, tuple(value.shape), tuple(parameter.shape)))
    with torch.no_grad():
        for name, parameter, value in found:
            parameter.copy_(value)
            del loaded[f"{CHILD}.{name}"]


def slots_of(model: nn.Module, names: Sequence[str]) -> Slots:
    """Where the parameters of these names (under `hyper_connections`) are kept."""
    split = [name.rpartition(".") for name in names]
    child = connections_of(model) if names else None
    return [(child.get_submodule(path)._parameters, last) for path, _, last in split if child is not None]


def names_of(plan: Plan, config: Config) -> list[str]:
    """The names, under `hyper_connections`, of the parameters that a plan asks for."""
    return [f"{spec.identifier}.{name}" for spec in specs_of(plan, config).values() for name in spec.shapes]


def _check_fit(child: HyperConnections, plan: Plan, config: Config) -> None:
    if not child.header.fits(Header.of(config)):
        raise OtherParametersError(
            _advice(f"the model's {CHILD} have {child.header}, this backend {Header.of(config)}")
        )
    for key, spec in specs_of(plan, config).items():
        for name, parameter in child[key].named_parameters() if key in child else ():
            wanted = tuple(spec.shapes.get(name, ()))
            if tuple(parameter.shape) != wanted:
                raise OtherParametersError(_mismatch(f"{key}.{name}", tuple(parameter.shape), wanted))


def _check_checkpoints(model: nn.Module) -> None:
    """Have PyTorch ask for the header before it loads anything into a model, as a transformed one does."""
    hooks = model._load_state_dict_pre_hooks.values()
    if not any(getattr(hook, "hook", hook) is _check_header for hook in hooks):
        model.register_load_state_dict_pre_hook(_check_header)


def _check_header(model: nn.Module, state_dict: Mapping[str, Any], prefix: str, *_: Any) -> None:
    child = connections_of(model)
    if child is not None:
        check_state(state_dict, child.header, prefix)


def _mismatch(name: str, shape: tuple[int, ...], wanted: tuple[int, ...]) -> str:
    return _advice(f"{CHILD}.{name} has shape {list(shape)}, and {list(wanted)} is needed")


def _advice(problem: str) -> str:
    return (
        f"{problem}: use the options (n, connection, reduce) they were made with, or write del model.{CHILD} to start "
        "anew"
    )
