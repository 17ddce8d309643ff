"""How the modules of a model look in its twin, in a trace of the original code, and in a plain model again."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any, cast

from torch import nn

from mhc_compile.hosts import PATCHED, Container, Hosted, hosted_class, runs_plain
from mhc_compile.module_tree import HOOKS, State, original_class, shallow
from mhc_compile.offload import call_plain, without_hook
from mhc_compile.passes.nesting import HOSTED

_HOOK_FUNCTIONS = ("_forward_hooks", "_forward_pre_hooks")


def for_twin(module: nn.Module) -> tuple[type[nn.Module], State]:
    """How a module of the model looks in its twin. Its hooks are part of the trace and do not run again."""
    state = shallow(module)
    for name in _HOOK_FUNCTIONS:
        state[name] = type(state[name])((key, TracedHook(hook)) for key, hook in state[name].items())
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
    if module is door or (isinstance(module, Hosted) and vars(module)[HOSTED].called):
        traced = {k for name in _HOOK_FUNCTIONS for k, h in vars(module)[name].items() if isinstance(h, TracedHook)}
        for name in HOOKS:
            state[name] = type(state[name])((key, hook) for key, hook in state[name].items() if key in traced)
    return kind, state


def for_plain(module: nn.Module) -> tuple[type[nn.Module], State]:
    """How a module of the twin looks in a plain model: with all of its hooks."""
    state, kind = _without_code(module), original_class(module)
    call_plain(module, state, kind)
    for name in _HOOK_FUNCTIONS:
        state[name] = type(state[name])((key, getattr(hook, "traced", hook)) for key, hook in state[name].items())
    return kind, state


@dataclass(frozen=True)
class TracedHook:
    """A hook that generated code has in itself: where that runs, it has nothing to do.

    Attributes:
        traced: the hook.
    """

    traced: Callable[..., Any]

    def __call__(self, *args: Any, **kwargs: Any) -> Any:
        """The hook, where the original code runs."""
        return self.traced(*args, **kwargs) if runs_plain() else None


@contextmanager
def trace_hooks_since(model: nn.Module) -> Iterator[None]:
    """Hooks that are registered in the block on modules of a twin become a part of what is traced."""
    before = {id(m): {key for name in _HOOK_FUNCTIONS for key in vars(m)[name]} for m in model.modules()}
    yield
    for module in model.modules():
        for name in _HOOK_FUNCTIONS if isinstance(module, Hosted) else ():
            hooks = vars(module)[name]
            hooks.update({k: TracedHook(hook) for k, hook in hooks.items() if k not in before[id(module)]})


def _without_code(module: nn.Module) -> State:
    state = shallow(module)
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
