"""How the modules of a model look in its twin, in a trace of the original code, and in a plain model again."""

from __future__ import annotations

import functools
import types
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any, cast

from torch import nn

from mhc_compile import _torch_compat as compat
from mhc_compile.passes.split.nesting import HOSTED
from mhc_compile.twin.hosts import PATCHED, RUN, Container, Hosted, hosted_class, runs_plain, without_method_doors
from mhc_compile.twin.module_tree import HOOKS, State, original_class, shallow
from mhc_compile.twin.offload import call_plain, without_hook

_HOOK_FUNCTIONS = {
    "_forward_hooks": "_forward_hooks_with_kwargs",
    "_forward_pre_hooks": "_forward_pre_hooks_with_kwargs",
}
"""Where a module keeps hooks -> where it notes which of them get keyword arguments."""


def for_twin(module: nn.Module) -> tuple[type[nn.Module], State]:
    """How a module of the model looks in its twin. Its hooks are part of the trace and do not run again."""
    state = shallow(module)
    _stand_aside(state, {name: set(state[name]) for name in _HOOK_FUNCTIONS})
    if not _can_host(module):
        return type(module), state
    set_aside_forward(state)
    state[HOSTED] = Container()
    return hosted_class(cast(Any, type(module))), state


def _can_host(module: nn.Module) -> bool:
    """Whether a call of a module can run other code. Containers have none of their own."""
    kind = type(module)
    has_code = kind.forward is not nn.Module.forward or "forward" in vars(module)
    return has_code and not hasattr(kind, "__deepcopy__")


def for_trace(module: nn.Module, door: nn.Module | None = None) -> tuple[type[nn.Module], State]:
    """How a module of the twin looks to a trace of `door`: as in the model, with the hooks that are not run otherwise.

    Those that were there before are always traced, later ones where no code calls the module.
    """
    kind, state = for_plain(module)
    without_hook(module, state)
    _with_parameters(state)
    if module is door or (isinstance(module, Hosted) and vars(module)[HOSTED].called):
        traced = {k for name in _HOOK_FUNCTIONS for k, h in vars(module)[name].items() if isinstance(h, TracedHook)}
        for name in HOOKS:
            state[name] = type(state[name])((key, hook) for key, hook in state[name].items() if key in traced)
    return kind, state


def _with_parameters(state: State) -> None:
    """Make entries of what stands in attributes instead: in replicas that `DataParallel` makes, tensors of a device."""
    former = state.pop(compat.FORMER_PARAMETERS, {})
    state["_parameters"].update((name, state.pop(name)) for name in former if name in state)


def for_plain(module: nn.Module) -> tuple[type[nn.Module], State]:
    """How a module of the twin looks in a plain model: with all of its hooks."""
    state, kind = _without_code(module), original_class(module)
    call_plain(module, state, kind)
    for name, noted in _HOOK_FUNCTIONS.items():
        for key, hook in state[name].items():
            if isinstance(hook, TracedHook):
                state[name][key] = hook.traced
                if not hook.with_kwargs:
                    del state[noted][key]
    return kind, state


@dataclass(frozen=True)
class TracedHook:
    """A hook that generated code has in itself: it runs where the original code of its module does, and only there.

    It is noted as one that gets keyword arguments, among which generated code shows itself.

    Attributes:
        traced: the hook.
        with_kwargs: whether that gets keyword arguments.
    """

    traced: Callable[..., Any]
    with_kwargs: bool

    def __call__(self, module: nn.Module, args: Any, kwargs: Any, *output: Any) -> Any:
        """The hook, before a call of a module or, given its output, after."""
        container = vars(module).get(HOSTED)
        door = container is not None and container.door is not None
        if RUN in kwargs or (door and not runs_plain()):
            return None
        if self.with_kwargs:
            return self.traced(module, args, kwargs, *output)
        changed = self.traced(module, args, *output)
        if changed is None or output:
            return changed
        return changed if isinstance(changed, tuple) else (changed,), kwargs


def with_traced_hooks(forward: Callable[..., Any]) -> Callable[..., Any]:
    """The forward of a door, a function of the module and its inputs, between the hooks that are not run around it."""

    def call(module: nn.Module, *args: Any, **kwargs: Any) -> Any:
        for hook in tuple(module._forward_pre_hooks.values()):
            if isinstance(hook, TracedHook):
                changed = hook(module, args, kwargs)
                if changed is not None:
                    args, kwargs = changed
        result = forward(module, *args, **kwargs)
        for hook in tuple(module._forward_hooks.values()):
            if isinstance(hook, TracedHook):
                changed = hook(module, args, kwargs, result)
                if changed is not None:
                    result = changed
        return result

    return call


class TracedObject(TracedHook):
    """The same of a hook that is an object: `prune` and `remove_weight_norm` look for theirs by class."""

    @property  # type: ignore[misc]
    def __class__(self) -> Any:
        """That of the hook."""
        return self.traced.__class__

    def __getattr__(self, name: str) -> Any:
        """Whatever else they ask it for, such as the name of its tensor."""
        if name.startswith("__"):
            raise AttributeError(name)
        return getattr(self.traced, name)

    def __reduce__(self) -> tuple[Any, ...]:
        """A pickle names this class, and not that of the hook."""
        return TracedObject, (self.traced, self.with_kwargs)


def _traced(hook: Callable[..., Any], with_kwargs: bool) -> TracedHook:
    plain = isinstance(hook, (types.FunctionType, types.MethodType, types.BuiltinFunctionType, functools.partial))
    return (TracedHook if plain else TracedObject)(hook, with_kwargs)


@contextmanager
def trace_hooks_since(model: nn.Module) -> Iterator[None]:
    """Hooks that are registered in the block on modules of a twin become a part of what is traced."""
    before = {id(m): {name: set(vars(m)[name]) for name in _HOOK_FUNCTIONS} for m in model.modules()}
    yield
    for module in model.modules():
        if isinstance(module, Hosted):
            _stand_aside(vars(module), {n: set(vars(module)[n]) - before[id(module)][n] for n in _HOOK_FUNCTIONS})


def _stand_aside(state: State, keys: Mapping[str, set[Any]]) -> None:
    """Make `TracedHook`s of the hooks under these keys."""
    for name, noted in _HOOK_FUNCTIONS.items():
        for key in keys[name]:
            state[name][key] = _traced(state[name][key], key in state[noted])
            state[noted][key] = True


def _without_code(module: nn.Module) -> State:
    state = without_method_doors(shallow(module))
    state.pop(HOSTED, None)
    put_forward_back(state)
    return state


def set_aside_forward(state: State) -> None:
    """A `forward` that was set on the instance would hide that of the class."""
    if "forward" in state:
        state[PATCHED] = state.pop("forward")


def put_forward_back(state: State) -> None:
    """Undo `set_aside_forward`; a later one stays."""
    patched = state.pop(PATCHED, None)
    if patched is not None:
        state.setdefault("forward", patched)
