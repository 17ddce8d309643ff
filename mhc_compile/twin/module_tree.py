"""A second tree of modules over the parameters and buffers of a first."""

from __future__ import annotations

import abc
import copy
import functools
import types
from collections.abc import Callable, Mapping
from typing import Any

import torch
from torch import nn

from mhc_compile import _torch_compat as compat
from mhc_compile._torch_compat import unwrapped
from mhc_compile.twin.patched_classes import ORIGINAL, MakeForward, Patches
from mhc_compile.twin.rebound import rebind

HOOKS = (
    "_forward_hooks",
    "_forward_hooks_with_kwargs",
    "_forward_hooks_always_called",
    "_forward_pre_hooks",
    "_forward_pre_hooks_with_kwargs",
)
AROUND = "_mhc_around"
"""Attribute of a class: a `forward` of classes derived from it runs around what is traced, and is no part of that."""

_PARAMETRIZE = "torch.nn.utils.parametrize"
_INTERNALS = frozenset(vars(nn.Module()))

State = dict[str, Any]
Look = Callable[[nn.Module], tuple[type[nn.Module], State]]
"""Class and attributes of the second module that stands for one of the first tree."""


def derived(
    mixin: type,
    original: Any,
    make_forward: MakeForward | None,
    attributes: Mapping[str, Any],
    construct: Callable[..., nn.Module] | None = None,
) -> Any:
    """A class with the name of `original`, and `mixin` in front of it.

    `__init_subclass__` of `original` runs, for layers of Transformers wrap the forward there, unless it refuses. No
    metaclass of the user's own hears of it. Calling the class constructs a plain `original`, or what `construct`
    gives: for registers of classes, and slices of an `nn.Sequential`. `cls.__new__(cls)` gives an empty object, as of
    any class. What is set on it later, `original` gets (see `Patches`).
    """
    patches = Patches(original, make_forward)
    names = {k: getattr(original, k) for k in ("__module__", "__qualname__", "__doc__")}
    namespace = {**names, ORIGINAL: original, **patches.forward(), **attributes}

    @functools.wraps(original.__init__)
    def call(cls: type[nn.Module], *args: Any, **kwargs: Any) -> nn.Module:
        module: nn.Module = (construct or original)(*args, **kwargs)
        return module

    meta = type.__new__(type, type(original).__name__, (type(original),), {"__call__": call, **patches.methods()})
    make = abc.ABCMeta if issubclass(meta, abc.ABCMeta) else type
    try:
        return patches.complete(make.__new__(meta, original.__name__, (mixin, original), dict(namespace)))
    except Exception:  # it wants arguments, a name that is new, or no subclass at all
        quiet = type(mixin.__name__, (mixin,), {"__init_subclass__": classmethod(lambda cls: None)})
        return patches.complete(make.__new__(meta, original.__name__, (quiet, original), dict(namespace)))


def original_class(module: nn.Module) -> type[nn.Module]:
    """The class of a module without what this package and `fully_shard` derive from it.

    Where something else derived from ours, as a parametrization does, it is what would have come of the original class.
    """
    kind: Any = type(module)
    original: type[nn.Module] = _without_ours(kind)
    return original


@functools.cache
def _without_ours(kind: Any) -> Any:
    if ORIGINAL in vars(kind):
        return getattr(kind, ORIGINAL)
    if not hasattr(kind, ORIGINAL):
        return kind
    if compat.is_sharded_class(kind):
        return _without_ours(kind.__mro__[2])
    bases = tuple(_without_ours(base) for base in kind.__bases__)
    namespace = {k: v for k, v in vars(kind).items() if k not in ("__dict__", "__weakref__")}
    made: Any = type(kind.__name__, bases, namespace)
    for name, value in namespace.items():
        if isinstance(value, types.FunctionType) and "__class__" in value.__code__.co_freevars:
            setattr(made, name, _in_class(value, made))  # `super()` asks for it
    if getattr(vars(kind).get("__getstate__"), "__module__", "") == _PARAMETRIZE and not hasattr(made, "__deepcopy__"):
        made.__deepcopy__ = _copied  # it gives this to classes without one, and found ours
    if getattr(kind, AROUND, False) and not has_our_forward(kind):
        made.forward = next(vars(base)[ORIGINAL] for base in kind.__mro__ if ORIGINAL in vars(base)).forward
    return made


def _copied(self: nn.Module, memo: dict[int, Any]) -> nn.Module:
    twin: nn.Module = object.__new__(type(self))
    memo[id(self)] = twin
    vars(twin).update(copy.deepcopy(vars(self), memo))
    return twin


def has_our_forward(kind: type) -> bool:
    """Whether a class that was made on the fly, or one derived from it, has the `forward` that was made for it."""
    return ORIGINAL in vars(next(base for base in kind.__mro__ if "forward" in vars(base)))


has_our_forward._dynamo_marked_constant = True  # type: ignore[attr-defined]  # `torch._dynamo.assume_constant_result`


def _in_class(function: types.FunctionType, kind: type) -> types.FunctionType:
    """A method as it is in another class."""
    cells = zip(function.__code__.co_freevars, function.__closure__ or (), strict=True)
    closure = tuple(types.CellType(kind) if name == "__class__" else cell for name, cell in cells)
    made = types.FunctionType(
        function.__code__, function.__globals__, function.__name__, function.__defaults__, closure
    )
    made.__kwdefaults__ = function.__kwdefaults__
    return made


def shallow(module: nn.Module) -> State:
    """Attributes of a module, with its own registries (of parameters, submodules, hooks) over the same entries.

    What `module.compile()` left is not among them: it calls the module that it was made for.
    """
    state = {k: copy.copy(v) if k in _INTERNALS else v for k, v in vars(module).items()}
    state.pop("_compiled_call_impl", None)
    return state


def second_tree(root: nn.Module, second: nn.Module, look: Look) -> None:
    """Give `second`, which stands for `root`, modules that stand for those of `root`, as `look` says.

    A module that is used twice is one module there, too. What modules keep of each other beside their children becomes
    theirs as well (`rebind`). Wrappers for activation checkpointing and of `torch.compile` are left out. Scripted
    modules, whose state is not in Python, are shared.
    """
    twins: dict[int, nn.Module] = {id(root): second}

    def twin(module: nn.Module | None) -> nn.Module | None:
        if module is None or isinstance(module, torch.jit.ScriptModule):
            return module
        module = unwrapped(module)
        if id(module) not in twins:
            kind, state = look(module)
            made = twins[id(module)] = object.__new__(kind)
            vars(made).update(state)
            made._modules = {name: twin(child) for name, child in module._modules.items()}
        return twins[id(module)]

    second._modules = {name: twin(child) for name, child in second._modules.items()}
    for module in twins.values():
        rebind(vars(module), twins)
