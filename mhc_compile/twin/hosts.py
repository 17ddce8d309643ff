"""Submodules of a transformed model that run generated code when they are called by the code of the module around.

Called by anyone else, they are doors where sites lie inside (see `doors.py`); others compute what they always did.
"""

from __future__ import annotations

import copy
import functools
import inspect
import threading
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from typing import Any, Protocol, cast

from torch import nn

from mhc_compile._torch_compat import is_outermost, unwrapped
from mhc_compile.passes.split.nesting import HOSTED, hosted_name
from mhc_compile.twin.hyper_connections import HyperConnections
from mhc_compile.twin.late_hooks import check_called, check_hook
from mhc_compile.twin.module_tree import derived, has_our_forward, original_class
from mhc_compile.twin.owned import refuse_torchscript

RUN = "mhc_run"
"""The keyword of a call that asks a module to run generated code: `module(*inputs, mhc_run=code)`.

Hooks see the inputs as in any call; those that ask for keywords see this one, too.
"""
PATCHED = "_mhc_patched_forward"
"""Attribute for a `forward` that was set on the instance of a module."""


class Container(nn.Module):
    """What a hosted module holds under `HOSTED`: the parameters of sites that its code uses, as children.

    Attributes:
        called: whether a program calls the module; None before the first program.
        crossed: whether streams cross its border in one that does.
        door: what a call by anyone else goes through; None where no site lies inside.
        branch: what hears of such a call, where the module is a branch of a site; None elsewhere.
    """

    crossed = False  # here, for pickles of earlier versions have neither
    branch: Branch | None = None

    def __init__(self) -> None:
        super().__init__()
        self.called: bool | None = None
        self.door: Door | None = None


class Door(Protocol):
    """Runs a hosted module that is called by anyone but generated code."""

    def enter(self, module: nn.Module, args: tuple[Any, ...], kwargs: Mapping[str, Any]) -> Any:
        """The call `module(*args, **kwargs)`, with the hyper-connections inside."""


class Branch(Protocol):
    """Hears of calls of a module that computes what a site adds."""

    def called(self) -> None:
        """Before each call by anyone but generated code."""


class MethodDoor:
    """In the attributes of a module, what runs one of its methods. Plain modules, copies and pickles are without it."""


def without_method_doors(state: dict[str, Any]) -> dict[str, Any]:
    """Attributes of a module without its method doors."""
    return {name: value for name, value in state.items() if not isinstance(value, MethodDoor)}


class _Plain(threading.local):
    """Set while a thread runs the original code of a model, through which Dynamo looks for what it can compile."""

    active = False


_PLAIN = _Plain()  # by thread: the only way from a call to the modules inside it leads through code of the user's


def runs_plain() -> bool:
    """Whether modules are to run their original code in this thread. Dynamo takes it for a constant."""
    return _PLAIN.active


runs_plain._dynamo_marked_constant = True  # type: ignore[attr-defined]  # `torch._dynamo.assume_constant_result`


@contextmanager
def plain_calls() -> Iterator[None]:
    """In the block, hosted modules run their original code in this thread."""
    before, _PLAIN.active = _PLAIN.active, True
    try:
        yield
    finally:
        _PLAIN.active = before


class Hosted(nn.Module):
    """Mixed in before the class of a submodule.

    `children()` names the hyper-connections that its code uses, so that they are sharded with it. Their names, and
    those of all other parameters, stay the same: they are registered under `hyper_connections` of the whole model.
    """

    __prepare_scriptable__ = refuse_torchscript

    def children(self) -> Iterator[nn.Module]:
        """The parameters of sites that its code uses, then its own submodules, which the last one ends as ever.

        Code of the model itself sees its own alone.
        """
        if not runs_plain():
            yield from vars(self)[HOSTED]._modules.values()
        yield from super().children()

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
        """As in any module; warns if the traced code does not call this one, or hands it streams. So do the others."""
        check_hook(self, vars(self)[HOSTED], *args[:1], *kwargs.values())
        return super().register_forward_hook(*args, **kwargs)

    def register_forward_pre_hook(self, *args: Any, **kwargs: Any) -> Any:
        """See `register_forward_hook`."""
        check_hook(self, vars(self)[HOSTED], *args[:1], *kwargs.values())
        return super().register_forward_pre_hook(*args, **kwargs)

    def register_full_backward_hook(self, *args: Any, **kwargs: Any) -> Any:
        """See `register_forward_hook`."""
        check_called(self, vars(self)[HOSTED])
        return super().register_full_backward_hook(*args, **kwargs)

    def __deepcopy__(self, memo: dict[int, Any]) -> Any:
        twin = object.__new__(type(self))
        memo[id(self)] = twin
        vars(twin).update(copy.deepcopy(without_method_doors(vars(self)), memo))
        return twin

    def __reduce_ex__(self, protocol: Any) -> tuple[Any, ...]:
        """The class exists in this process only, so a pickle names the original class."""
        reduced: Any = super().__reduce_ex__(protocol)
        return (_rebuild, (original_class(self),), without_method_doors(reduced[2]), *reduced[3:])


def _rebuild(original: type[nn.Module]) -> Any:
    return object.__new__(hosted_class(cast(Any, original)))


def show(owner: nn.Module, known: HyperConnections, name: str, path: str) -> None:
    """Let a host of `owner` find the parameters that its code uses."""
    try:
        host = unwrapped(owner.get_submodule(path))
    except AttributeError:  # it was deleted
        return
    if isinstance(host, Hosted):  # else it was replaced, and runs no code
        vars(host)[HOSTED].add_module(hosted_name(name, path), known.get_submodule(name))


def mark_called(module: nn.Module, called: bool, *, crossed: bool) -> None:
    """Note whether a program calls a host, and with streams. Once called, it counts as such."""
    container = vars(module)[HOSTED]
    container.called = called or bool(container.called)
    container.crossed = crossed or container.crossed


@functools.cache  # one class per class, so that blocks that were alike still are
def hosted_class(original: Any) -> type[nn.Module]:
    """The class of a submodule that runs generated code, in place of `original`."""
    special = {} if original.__call__ is nn.Module.__call__ else {"__call__": _calling_of(original)}
    hosted: type[nn.Module] = derived(Hosted, original, functools.partial(_hosted_forward, original), special)
    return hosted


def _hosted_forward(original: Any, stood_for: list[Callable[..., Any]]) -> Callable[..., Any]:
    def forward(self: Any, *args: Any, **kwargs: Any) -> Any:
        if stood_for:
            return stood_for[0](self, *args, **kwargs)
        if RUN in kwargs:
            return kwargs[RUN](self, *args)
        door = self.__dict__[HOSTED].door
        if door is not None and not runs_plain() and has_our_forward(type(self)):
            return door.enter(self, args, kwargs)
        if (branch := self.__dict__[HOSTED].branch) is not None and not runs_plain():
            branch.called()
        patched = self.__dict__.get(PATCHED)
        # Not `original.forward`: of a class given to `torch._dynamo.allow_in_graph`, Dynamo traces no attribute.
        return super(Hosted, self).forward(*args, **kwargs) if patched is None else patched(*args, **kwargs)

    # Trainers and libraries look at the signature.
    forward.__signature__ = inspect.signature(original.forward)  # type: ignore[attr-defined]
    forward.__doc__ = original.forward.__doc__
    return forward


def _calling_of(original: Any) -> Callable[..., Any]:
    """What a class does around its forward, in `__call__`, is part of the trace: only plain calls do it."""

    def call(self: nn.Module, *args: Any, **kwargs: Any) -> Any:
        if RUN in kwargs or (self.__dict__[HOSTED].door is not None and not runs_plain()):
            return nn.Module.__call__(self, *args, **kwargs)
        return original.__call__(self, *args, **kwargs)

    return call


def original_forward(module: nn.Module) -> Callable[..., Any]:
    """What a module would do without this package, a function of the module and the inputs of its forward."""
    patched: Callable[..., Any] | None = module.__dict__.get(PATCHED)
    if patched is None:
        return original_class(module).forward
    return lambda module, *args, **kwargs: patched(*args, **kwargs)
