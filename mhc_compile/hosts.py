"""Submodules of a transformed model that run generated code when they are called by the code of the module around.

Called by anyone else, they compute what they always did.
"""

from __future__ import annotations

import copy
import functools
import inspect
import warnings
import weakref
from collections.abc import Iterator
from typing import TYPE_CHECKING, Any, cast

from torch import nn

from mhc_compile._torch_compat import is_outermost
from mhc_compile.errors import HookNotRunWarning
from mhc_compile.hyper_connections import HyperConnections
from mhc_compile.module_tree import HOOKS, State, derived, shallow
from mhc_compile.passes.nesting import HOSTED, hosted_name

if TYPE_CHECKING:
    from mhc_compile.owner import Transformed

RUN = "mhc_run"
"""The keyword of a call that asks a module to run generated code: `module(*inputs, mhc_run=code)`.

Hooks see the inputs as in any call; those that ask for keywords see this one, too.
"""
_TRACED_HOOKS = "_mhc_traced_hooks"
_ORIGINAL = "_mhc_original"


class Hosted(nn.Module):
    """Mixed in before the class of a submodule.

    `children()` names the hyper-connections that its code uses, so that they are sharded with it. Their names, and
    those of all other parameters, stay the same: they are registered under `hyper_connections` of the whole model.
    """

    def children(self) -> Iterator[nn.Module]:
        """Its own submodules, then the parameters of sites that its code uses."""
        yield from super().children()
        yield from vars(self)[HOSTED]._modules.values()

    def named_modules(
        self, memo: set[nn.Module] | None = None, prefix: str = "", remove_duplicate: bool = True
    ) -> Iterator[tuple[str, nn.Module]]:
        """With duplicates, asked of this module or a wrapper, hosted parameters of the whole subtree are named, too.

        In this way `fully_shard` looks for the modules of the parameters that it got from `children()`.
        """
        yield from super().named_modules(memo, prefix, remove_duplicate)
        if remove_duplicate or not is_outermost(prefix):
            return
        for path, module in list(super().named_modules(prefix=prefix)):
            if isinstance(module, Hosted):
                yield from vars(module)[HOSTED].named_modules(None, f"{path}.{HOSTED}".lstrip("."), False)

    def register_forward_hook(self, *args: Any, **kwargs: Any) -> Any:
        """As in any module; warns if the traced code does not call this one. So do the others."""
        _check_called(self)
        return super().register_forward_hook(*args, **kwargs)

    def register_forward_pre_hook(self, *args: Any, **kwargs: Any) -> Any:
        """See `register_forward_hook`."""
        _check_called(self)
        return super().register_forward_pre_hook(*args, **kwargs)

    def register_full_backward_hook(self, *args: Any, **kwargs: Any) -> Any:
        """See `register_forward_hook`."""
        _check_called(self)
        return super().register_full_backward_hook(*args, **kwargs)

    def __deepcopy__(self, memo: dict[int, Any]) -> Any:
        twin = object.__new__(type(self))
        memo[id(self)] = twin
        vars(twin).update(copy.deepcopy(vars(self), memo))
        return twin

    def __reduce_ex__(self, protocol: Any) -> tuple[Any, ...]:
        """The class exists in this process only, so a pickle names the original class."""
        reduced = super().__reduce_ex__(protocol)
        return (_rebuild, (_original(self),), *reduced[2:])


def _rebuild(original: type[nn.Module]) -> Any:
    return object.__new__(_hosted_class(cast(Any, original)))


def _original(module: nn.Module) -> type[nn.Module]:
    return getattr(type(module), _ORIGINAL, type(module))


def show(owner: nn.Module, known: HyperConnections, name: str, path: str) -> None:
    """Let a host of `owner` find the parameters that its code uses."""
    host = owner.get_submodule(path)
    if isinstance(host, Hosted):  # else it was replaced, and runs no code
        vars(host)[HOSTED].add_module(hosted_name(name, path), known.get_submodule(name))


def follow(owner: Transformed) -> None:
    """Let hosts find the parameters that are in use now: adapters put copies in the place of others, and switch."""
    ownership, child = owner._mhc, owner.hyper_connections
    used = child.itself
    if ownership.shown is not None and ownership.shown() is used:
        return
    copies = [part for part in child.modules() if isinstance(part, HyperConnections)]
    used.hosts = {name: paths for copy_ in copies for name, paths in copy_.hosts.items()}
    for name, paths in used.hosts.items():
        for path in paths:
            show(owner, used, name, path)
    ownership.shown = weakref.ref(used)


def mark_called(module: nn.Module, called: bool) -> None:
    """Note whether a program calls a host. Once called, it counts as such."""
    container = vars(module)[HOSTED]
    container.called = called or getattr(container, "called", False)


def _check_called(module: nn.Module) -> None:
    if getattr(vars(module)[HOSTED], "called", True):  # nobody knows before the first program
        return
    warnings.warn(
        f"this {type(module).__name__} is not called by the code of the transformed model, so its hooks do not fire, "
        "and fully_shard cannot gather its parameters: it computes nothing in the traced calls, or something else is "
        "computed between its first operation and its last. Use the module around it",
        HookNotRunWarning,
        stacklevel=3,
    )


@functools.cache  # one class per class, so that blocks that were alike still are
def _hosted_class(original: Any) -> type[nn.Module]:
    def forward(self: nn.Module, *args: Any, **kwargs: Any) -> Any:
        if RUN in kwargs:
            return kwargs[RUN](self, *args)
        return original.forward(self, *args, **kwargs)

    # Trainers and libraries look at the signature.
    forward.__signature__ = inspect.signature(original.forward)  # type: ignore[attr-defined]
    forward.__doc__ = original.forward.__doc__
    hosted: type[nn.Module] = derived(Hosted, original, {_ORIGINAL: original, "forward": forward})
    return hosted


def for_twin(module: nn.Module) -> tuple[type[nn.Module], State]:
    """How a module of the model looks in its twin. Its hooks are part of the trace and do not run again."""
    state = shallow(module)
    traced = {name: state[name] for name in HOOKS if state[name]}
    if traced:
        state.update({name: type(hooks)() for name, hooks in traced.items()}, **{_TRACED_HOOKS: traced})
    if not _can_host(module):
        return type(module), state
    return _hosted_class(cast(Any, type(module))), {**state, HOSTED: nn.Module()}


def _can_host(module: nn.Module) -> bool:
    """Whether a call of a module can run other code.

    Containers have none of their own, and with a forward on the instance that of the class is never asked. What a
    class does around its forward, in `__call__`, is part of the trace and would be done once more.
    """
    kind = type(module)
    contained = kind.forward is nn.Module.forward or "forward" in vars(module)
    return not contained and kind.__call__ is nn.Module.__call__ and not hasattr(kind, "__deepcopy__")


def for_trace(module: nn.Module) -> tuple[type[nn.Module], State]:
    """How a module of the twin looks to a trace: as in the model, with the hooks that were traced before."""
    state = _without_code(module)
    traced = state.pop(_TRACED_HOOKS, {})
    state.update({name: traced.get(name, type(state[name])()) for name in HOOKS})
    return _original(module), state


def for_plain(module: nn.Module) -> tuple[type[nn.Module], State]:
    """How a module of the twin looks in a plain model: with all of its hooks."""
    state = _without_code(module)
    for name, hooks in state.pop(_TRACED_HOOKS, {}).items():
        state[name] = type(hooks)({**hooks, **state[name]})
    return _original(module), state


def _without_code(module: nn.Module) -> State:
    return {k: v for k, v in shallow(module).items() if k != HOSTED}
