"""Modules of a model that a backend widens, called past the compiled model: `self.forward(...)`, a backbone.

Compiled code inlines their forward. Whoever else calls them gets what compiled code computes.
"""

from __future__ import annotations

import functools
import inspect
import warnings
import weakref
from collections.abc import Callable, Iterable, Mapping
from typing import Any, cast

import torch
from torch import nn

from mhc_compile import _torch_compat as compat
from mhc_compile.config import Config
from mhc_compile.dynamo.plans import GraphRecord
from mhc_compile.errors import StreamsCutWarning
from mhc_compile.twin.hyper_connections import CHILD
from mhc_compile.twin.module_tree import derived, original_class

Compile = Callable[[nn.Module, nn.Module, Config], tuple[Callable[..., Any], list[GraphRecord]]]
"""Compiles a module of a model alone; the list gets a record of each graph as it is compiled."""

_DOOR = "_mhc_compiled_door"


class Attached(nn.Module):
    """Mixed in before the class of a module with sites inside. Copies and pickles are of the original class."""

    def __reduce_ex__(self, protocol: Any) -> tuple[Any, ...]:
        """The class exists in this process only, and a copy is not compiled yet."""
        reduced: Any = super().__reduce_ex__(protocol)
        state = {name: value for name, value in reduced[2].items() if name != _DOOR}
        return (_rebuild, (original_class(self),), state, *reduced[3:])


def _rebuild(original: type[nn.Module]) -> Any:
    return object.__new__(original)


def attach_doors(model: nn.Module, places: Iterable[str], config: Config, compile_alone: Compile) -> None:
    """Make doors of the modules around these, by their names, and of `model` itself, before anything is compiled."""
    paths = {"", *(".".join(parts[:n]) for parts in (p.split(".") for p in places) for n in range(1, len(parts) + 1))}
    for path, module in list(model.named_modules()):
        if path in paths and _can_be_door(module):
            module.__class__ = _attached_class(cast(Any, type(module)))
            vars(module)[_DOOR] = _CompiledDoor(model, path, config, compile_alone)


def _can_be_door(module: nn.Module) -> bool:
    ours = isinstance(module, (Attached, torch.jit.ScriptModule)) or "_mhc" in vars(module)
    patched = "forward" in vars(module) or type(module).forward is nn.Module.forward
    return not ours and not patched and "__slots__" not in vars(type(module))


@functools.cache
def _attached_class(original: Any) -> type[nn.Module]:
    kind: type[nn.Module] = derived(Attached, original, functools.partial(_attached_forward, original), {})
    return kind


def _attached_forward(original: Any, stood_for: list[Callable[..., Any]]) -> Callable[..., Any]:
    def forward(self: Any, *args: Any, **kwargs: Any) -> Any:
        if stood_for:
            return stood_for[0](self, *args, **kwargs)
        if torch.compiler.is_compiling() or compat.get_eval_frame_callback() is not None:
            return super(Attached, self).forward(*args, **kwargs)  # see `twin/hosts.py`
        return self.__dict__[_DOOR].enter(self, args, kwargs)

    forward.__signature__ = inspect.signature(original.forward)  # type: ignore[attr-defined]
    forward.__doc__ = original.forward.__doc__
    return forward


def _compiled_inside(module: nn.Module) -> bool:
    """Whether parts of a module were compiled one by one, which then run with what is theirs."""
    parts = (m for m in module.modules() if m is not module)
    return any(m._compiled_call_impl is not None or compat.COMPILED in m._modules for m in parts)


class _CompiledDoor:
    """Compiles one module alone, with the parameters of the sites inside."""

    def __init__(self, model: nn.Module, path: str, config: Config, compile_alone: Compile) -> None:
        self._model, self._path, self._config, self._compile = weakref.ref(model), path, config, compile_alone
        self._call: Callable[..., Any] | None = None
        self._records: list[GraphRecord] = []

    def enter(self, module: nn.Module, args: tuple[Any, ...], kwargs: Mapping[str, Any]) -> Any:
        """The call `module(*args, **kwargs)`, with the hyper-connections inside."""
        model = self._model()
        deleted = model is None or CHILD not in model._modules
        if deleted or _compiled_inside(module):
            return original_class(module).forward(module, *args, **kwargs)
        assert model is not None
        if self._call is None:
            self._call, self._records = self._compile(module, model, self._config)
        known = len(self._records)
        result = self._call(*args, **kwargs)
        if len(self._records) > known:
            self._warn_of_cut(model)
        return result

    def _warn_of_cut(self, model: nn.Module) -> None:
        found = {site.key for record in self._records for site in record.plan.sites}
        every = set(model._modules[CHILD].itself)  # type: ignore[union-attr, arg-type]
        if self._path and found < every:
            warnings.warn(
                f"{self._path} is called past the compiled model, with {len(found)} of its {len(every)} sites: if a "
                "segment reaches beyond it, its streams begin and end at its border. Call the module around it, or the "
                "model",
                StreamsCutWarning,
                stacklevel=5,
            )
