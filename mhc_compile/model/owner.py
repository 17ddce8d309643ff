"""The transformed model: a twin of the user's module tree with new parameters and a new forward.

A subclass made on the fly keeps class, attributes, parameter names, tied and unused parameters. Its modules are its own
(see `hosts.py`), its parameters and buffers are those of the original object, which is left as it was.
"""

from __future__ import annotations

import copy
import functools
import inspect
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from typing import Any, cast

import torch
from torch import nn

from mhc_compile.config import Config
from mhc_compile.files.saving import methods_of_pretrained
from mhc_compile.model.doors import set_doors
from mhc_compile.model.plain_checkpoint import complete_plain
from mhc_compile.model.serve import call_entry
from mhc_compile.passes.plan.data import Plan
from mhc_compile.programs.ownership import Ownership, Served
from mhc_compile.programs.plain_twin import rebind_hooks
from mhc_compile.twin.containers import container_methods
from mhc_compile.twin.former_keys import rename_former
from mhc_compile.twin.header import check_adapter, check_state, is_plain
from mhc_compile.twin.hosts import original_forward, runs_plain, without_method_doors
from mhc_compile.twin.hyper_connections import CHILD, HyperConnections, spared_names
from mhc_compile.twin.looks import for_twin, set_aside_forward
from mhc_compile.twin.module_tree import AROUND, derived, second_tree, shallow


class Transformed(Served):
    """Mixed in before the class of the model: runs the rewritten programs instead of its forward."""

    def __deepcopy__(self, memo: dict[int, Any]) -> Any:
        twin = object.__new__(type(self))
        memo[id(self)] = twin
        vars(twin).update(copy.deepcopy(without_method_doors(vars(self)), memo))
        set_doors(twin)
        return twin

    def __setstate__(self, state: dict[str, Any]) -> None:
        super().__setstate__(state)
        set_doors(self)

    def __reduce_ex__(self, protocol: Any) -> tuple[Any, ...]:
        """The class exists in this process only, so a pickle names the original class."""
        reduced: Any = super().__reduce_ex__(protocol)
        return (_rebuild, (self._mhc.original,), without_method_doors(reduced[2]), *reduced[3:])

    def named_children(self) -> Iterator[tuple[str, nn.Module]]:
        """Its own children behind the hyper-connections: `list(model.children())[:-1]` is still all but the head.

        Code of the model itself, which Dynamo runs, sees its own alone.
        """
        own = [(name, child) for name, child in super().named_children() if name != CHILD]
        if not runs_plain() and CHILD in self._modules:
            yield CHILD, self.hyper_connections
        yield from own

    def no_weight_decay(self) -> set[str]:
        """What optimizers of timm ask a model: names of parameters without weight decay, its own and new ones."""
        own: Callable[[], Iterable[str]] = getattr(super(), "no_weight_decay", set)
        return {*own(), *spared_names(self)}

    def _load_from_state_dict(
        self, state_dict: dict[str, Any], prefix: str, local_metadata: dict[str, Any], *args: Any
    ) -> None:
        """Checks the header before anything is loaded, and lets a checkpoint of the original model in."""
        if is_plain(state_dict, prefix):
            complete_plain(self, state_dict, prefix, assign=local_metadata.get("assign_to_params_buffers", False))
        else:
            check_adapter(state_dict, prefix)
            check_state(state_dict, self.hyper_connections.header, prefix)
            rename_former(state_dict, self._mhc.plans, prefix)
        super()._load_from_state_dict(state_dict, prefix, local_metadata, *args)


def _rebuild(original: type[nn.Module]) -> Any:
    return object.__new__(_transformed_class(cast(Any, original)))


@functools.cache  # as those of two models of one class are one, for who stacks or averages them
def _transformed_class(original: Any) -> type[Transformed]:
    # What the class does around its forward, in `__call__`, is part of the trace.
    special = {
        AROUND: True,
        "__call__": nn.Module.__call__,
        **container_methods(original),
        **methods_of_pretrained(original, own),
    }
    kind: type[Transformed] = derived(Transformed, original, functools.partial(_transformed_forward, original), special)
    return kind


def _transformed_forward(original: type[nn.Module], stood_for: list[Callable[..., Any]]) -> Callable[..., Any]:
    def forward(self: Transformed, *args: Any, **kwargs: Any) -> Any:
        if stood_for:
            return stood_for[0](self, *args, **kwargs)
        if runs_plain():
            return original_forward(self)(self, *args, **kwargs)
        return call_entry(self, self._mhc.entry(""), args, kwargs)

    # Trainers look at the signature to decide which columns of a data set the model takes.
    forward.__signature__ = inspect.signature(original.forward)  # type: ignore[attr-defined]
    forward.__doc__ = original.forward.__doc__
    return forward


def own(
    model: nn.Module, sites: Mapping[str, tuple[str, Mapping[str, torch.Tensor]]], plans: Sequence[Plan], config: Config
) -> Transformed:
    """The transformed twin of `model`, without programs yet; `sites` as in `HyperConnections`.

    The first of the plans, which are those of its modes, becomes `mhc_plan`.
    """
    twin: Transformed = object.__new__(_transformed_class(cast(Any, type(model))))
    state = shallow(model)
    set_aside_forward(state)
    vars(twin).update(state, _mhc=Ownership(type(model), config, tuple(plans)), mhc_plan=plans[0])
    second_tree(model, twin, for_twin)
    twin._modules[CHILD] = child = HyperConnections(sites, config).train(model.training)
    child.in_sequential = True  # who calls all children of the model in turn, leaves nothing out
    rebind_hooks(twin)
    set_doors(twin)
    return twin
