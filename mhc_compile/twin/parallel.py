"""Modules that something else runs on several processes: parameters that are distributed, hooks that distribute values.

Their code computes on parts of tensors, so a trace of it with whole ones is not what runs. Generated code calls such
modules as a whole, through whatever was put around them; `whole_modules` says which, `for_whole_calls` how they look in
the trace.
"""

from __future__ import annotations

import functools
from collections.abc import Collection, Iterable
from typing import Any, cast

from torch import distributed, nn

from mhc_compile import _torch_compat as compat
from mhc_compile.passes.graph.borders import marked
from mhc_compile.passes.split.nesting import HOSTED
from mhc_compile.twin.hosts import Hosted
from mhc_compile.twin.late_hooks import is_of
from mhc_compile.twin.looks import TracedHook, for_trace
from mhc_compile.twin.module_tree import HOOKS, Look, State, derived
from mhc_compile.twin.names import lies_in, named_modules
from mhc_compile.twin.offload import computes_as_its_class

SUMMED = "sequence_parallel"
"""Attribute of Megatron's for parameters whose gradients are those of a part of the sequence."""

_LIBRARIES = ("torch.distributed.tensor", "torchtitan")
"""Where the functions come from that distribute what a module takes and returns."""


def is_parallel(modules: Iterable[nn.Module], around: Iterable[nn.Module] = ()) -> bool:
    """Whether something but `fully_shard` has distributed parameters of these modules, or what they take and return.

    `fully_shard` was called on some of them, wrappers for activation checkpointing included, or of those around.
    """
    if not (distributed.is_available() and distributed.is_initialized()):
        return False
    modules = list(modules)
    return bool(compat.parallel_meshes(modules, around)) or any(
        distributes_values(m) or _is_replaced(m) for m in modules
    )


def distributes_values(module: nn.Module) -> bool:
    """Whether a hook, or a `forward` that was set on the module, is one of a library that distributes tensors."""
    around = [*module._forward_pre_hooks.values(), *module._forward_hooks.values(), vars(module).get("forward")]
    return any(map(_is_of_library, around))


def _is_replaced(module: nn.Module) -> bool:
    """Whether a module without sites got another forward; where there are several processes, they may talk in it."""
    if not isinstance(module, Hosted) or "forward" not in vars(module) or computes_as_its_class(module):
        return False
    return vars(module)[HOSTED].door is None


def _is_of_library(function: Any) -> bool:
    while isinstance(function, TracedHook):
        function = function.traced
    return is_of(function, _LIBRARIES)


def whole_modules(model: nn.Module, places: Collection[str]) -> tuple[str, ...]:
    """Names of the outermost modules that have no site inside and a forward of their own.

    Args:
        model: a transformed one.
        places: names of the modules in which its sites lie.
    """
    found: list[str] = []
    for path, module in named_modules(model):
        has_sites = any(lies_in(place, path) for place in places)
        if isinstance(module, Hosted) and not has_sites and not any(lies_in(path, outer) for outer in found):
            found.append(path)
    return tuple(found)


def for_whole_calls(model: nn.Module, paths: Collection[str], door: nn.Module | None = None) -> Look:
    """How the modules of a twin look to a trace in which those called `paths` have marks on their borders.

    What was put around them and the modules inside runs in a call, and is left out of the trace; `door` is the one
    module that is traced, None for the whole model.
    """
    called = {id(model.get_submodule(path)) for path in paths}
    inside = {id(m) for path in paths for m in model.get_submodule(path).modules()}

    def look(module: nn.Module) -> tuple[type[nn.Module], State]:
        kind, state = for_trace(module, door)
        if id(module) in inside:
            state.pop("forward", None)
            state.update({name: type(state[name])() for name in HOOKS})
        return (_bordered(cast(Any, kind)) if id(module) in called else kind), state

    return look


@functools.cache
def _bordered(kind: Any) -> type[nn.Module]:
    def forward(self: nn.Module, *args: Any, **kwargs: Any) -> Any:
        args, kwargs = marked((args, kwargs), True)
        return marked(kind.forward(self, *args, **kwargs), False)

    bordered: type[nn.Module] = derived(_Bordered, kind, None, {"forward": forward})
    return bordered


class _Bordered(nn.Module):
    """Mixed in before the class of a module whose borders are marked."""


def mark_as_others(model: nn.Module, new: Iterable[nn.Parameter]) -> None:
    """Let Megatron's engine add up the gradients of new parameters over its tensor group, as those of the norms.

    It does so for parameters with an attribute of this name, which a model has where its sequence is sharded.
    """
    if any(getattr(parameter, SUMMED, False) is True for parameter in model.parameters()):
        for parameter in new:
            setattr(parameter, SUMMED, True)


def meshes(modules: Iterable[nn.Module]) -> list[Any]:
    """The device meshes over which parameters lie in calls, without those of `fully_shard`."""
    return compat.parallel_meshes(modules)
