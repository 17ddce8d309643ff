"""The transformed model: a twin of the user's module tree with new parameters and a new forward.

A subclass made on the fly keeps class, attributes, parameter names, tied and unused parameters. Its modules are its own
(see `hosts.py`), its parameters and buffers are those of the original object, which is left as it was.
"""

from __future__ import annotations

import copy
import inspect
import weakref
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass, field, replace
from typing import TYPE_CHECKING, Any

import torch
from torch import nn

from mhc_compile.config import Config
from mhc_compile.containers import container_methods
from mhc_compile.dispatch import Entry, call_entry
from mhc_compile.doors import set_doors
from mhc_compile.errors import AlreadyTransformedError, NotAModuleError, NotTransformedError
from mhc_compile.former import rename_former
from mhc_compile.header import check_adapter, check_state, is_plain
from mhc_compile.hosts import (
    Hosted,
    for_plain,
    for_twin,
    original_forward,
    put_forward_back,
    runs_plain,
    set_aside_forward,
)
from mhc_compile.hyper_connections import CHILD, HyperConnections
from mhc_compile.module_tree import Look, derived, original_class, second_tree, shallow
from mhc_compile.offload import call_plain, computes_as_its_class, without_hook
from mhc_compile.passes.plan import Plan
from mhc_compile.program import Program
from mhc_compile.saving import methods_of_pretrained

if TYPE_CHECKING:
    from mhc_compile.stage import Stage


@dataclass
class Ownership:
    """What a transformed model keeps besides its parameters.

    Attributes:
        original: class of the model that was transformed.
        config: options it was transformed with.
        plans: of all modes that were traced by `transform`; the first that names a key decides about its parameters.
        entries: name of a module that was called from outside, "" for the model -> what serves its calls. They are
            derived data: pickles leave them out, and copies keep programs that hold no tensors; what is missing is
            traced again at the first call that needs it.
        shown: the hyper-connections that hosts find, see `mhc_compile.hosts.follow`.
    """

    original: type[nn.Module]
    config: Config
    plans: tuple[Plan, ...] = ()
    entries: dict[str, Entry] = field(default_factory=dict)
    shown: weakref.ref[HyperConnections] | None = None

    @property
    def programs(self) -> list[Program]:
        """The programs of the model itself."""
        return self.entry("").programs

    def entry(self, path: str) -> Entry:
        """What serves calls of a module."""
        return self.entries.setdefault(path, Entry(path))

    def __getstate__(self) -> dict[str, Any]:
        return {**vars(self), "entries": {}, "shown": None}

    def __deepcopy__(self, memo: dict[int, Any]) -> Ownership:
        return replace(self, entries={path: entry.for_copy() for path, entry in self.entries.items()}, shown=None)


class Transformed(nn.Module):
    """Mixed in before the class of the model: runs the rewritten programs instead of its forward."""

    _mhc: Ownership
    mhc_plan: Plan
    hyper_connections: HyperConnections

    def __deepcopy__(self, memo: dict[int, Any]) -> Any:
        twin = object.__new__(type(self))
        memo[id(self)] = twin
        vars(twin).update(copy.deepcopy(vars(self), memo))
        set_doors(twin)
        return twin

    def __setstate__(self, state: dict[str, Any]) -> None:
        super().__setstate__(state)
        set_doors(self)

    def __reduce_ex__(self, protocol: Any) -> tuple[Any, ...]:
        """The class exists in this process only, so a pickle names the original class."""
        reduced = super().__reduce_ex__(protocol)
        return (_rebuild, (self._mhc.original,), *reduced[2:])

    def no_weight_decay(self) -> set[str]:
        """What optimizers of timm ask a model: names of parameters without weight decay, its own and new ones."""
        from mhc_compile.optimizer import spared_names

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


def complete_plain(owner: Transformed | Stage, state_dict: dict[str, Any], prefix: str, *, assign: bool) -> None:
    """Add hyper-connections to the copy of a plain state dict that is being loaded, which satisfies strict loading.

    They stay as they are. Only those on the meta device, which have no values, get initial ones, where PyTorch is to
    take over the tensors of the state dict (`assign`).
    """
    from mhc_compile.initial import materialise
    from mhc_compile.preserved import warn_of_trained

    warn_of_trained(owner)
    state_dict.update(owner.hyper_connections.state_dict(prefix=f"{prefix}{CHILD}.", keep_vars=True))
    if assign:
        materialise(owner, state_dict, prefix)


def _rebuild(original: type[nn.Module]) -> Any:
    return object.__new__(_transformed_class(original))


def _transformed_class(original: type[nn.Module]) -> type[Transformed]:
    def forward(self: Transformed, *args: Any, **kwargs: Any) -> Any:
        if runs_plain():
            return original_forward(self)(self, *args, **kwargs)
        return call_entry(self, self._mhc.entry(""), args, kwargs)

    # Trainers look at the signature to decide which columns of a data set the model takes.
    forward.__signature__ = inspect.signature(original.forward)  # type: ignore[attr-defined]
    forward.__doc__ = original.forward.__doc__
    # What the class does around its forward, in `__call__`, is part of the trace.
    special = {**container_methods(original), **methods_of_pretrained(original)}
    attributes = {"forward": forward, "__call__": nn.Module.__call__, **special}
    kind: type[Transformed] = derived(Transformed, original, attributes)
    return kind


def own(
    model: nn.Module, sites: Mapping[str, tuple[str, Mapping[str, torch.Tensor]]], plans: Sequence[Plan], config: Config
) -> Transformed:
    """The transformed twin of `model`, without programs yet; `sites` as in `HyperConnections`.

    The first of the plans, which are those of its modes, becomes `mhc_plan`.
    """
    twin: Transformed = object.__new__(_transformed_class(type(model)))
    state = shallow(model)
    set_aside_forward(state)
    vars(twin).update(state, _mhc=Ownership(type(model), config, tuple(plans)), mhc_plan=plans[0])
    second_tree(model, twin, for_twin)
    twin._modules[CHILD] = HyperConnections(sites, config).train(model.training)
    _rebind_hooks(twin)
    set_doors(twin)
    return twin


def disown(model: nn.Module, look: Look = for_plain) -> nn.Module:
    """A plain object of the original class over the same parameters.

    Args:
        model: the transformed model.
        look: how its submodules are copied.

    Raises:
        NotTransformedError: `model` was not made by `transform`.
    """
    if not isinstance(model, Transformed):
        raise NotTransformedError(
            f"{type(model).__name__} was not made by mhc_compile.transform: pass the model that transform returned"
        )
    state = shallow(model)
    del state["_mhc"], state["mhc_plan"], state["_modules"][CHILD]
    kind = original_class(model)
    if look is for_plain and computes_as_its_class(model):
        call_plain(model, state, kind)
    else:
        without_hook(model, state)
        state.pop("forward", None)  # of the twin, such as one under autocast by accelerate, which would call the twin
    put_forward_back(state)
    plain: nn.Module = object.__new__(kind)
    vars(plain).update(state)
    second_tree(model, plain, look)
    _rebind_hooks(plain)
    return plain


def _rebind_hooks(twin: nn.Module) -> None:
    """Hooks on loading get the twin as their module: they know the original weakly, and would fail once it is gone."""
    hooks: dict[int, Any] = twin._load_state_dict_pre_hooks
    for key, hook in hooks.items():
        if getattr(hook, "with_module", False):
            hooks[key] = type(hook)(hook.hook, twin)


def check_module(model: object) -> nn.Module:
    """The argument, if it is a module.

    Raises:
        NotAModuleError: it is none.
    """
    if not isinstance(model, nn.Module):
        hint = "write an instance, Model(), not the class" if isinstance(model, type) else "pass a torch.nn.Module"
        raise NotAModuleError(f"got {model!r}, which is no torch.nn.Module: {hint}")
    return model


def check_untransformed(model: object) -> nn.Module:
    """The argument, if it is a module without hyper-connections.

    Raises:
        NotAModuleError: it is no module.
        AlreadyTransformedError: it or one of its submodules was made by `transform`, or compiled by `backend`.
    """
    model = check_module(model)
    for name, module in model.named_modules():
        if isinstance(module, (Transformed, Hosted, HyperConnections)):
            raise AlreadyTransformedError(
                f"{name or 'the model'} already has hyper-connections: write mhc_compile.revert(model) first, "
                "or transform only the outer model (behind mhc_compile.backend: del model.hyper_connections)"
            )
    return model
