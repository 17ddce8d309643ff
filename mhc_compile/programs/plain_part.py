"""The original code of a transformed model, or of one module of it, to be traced."""

from __future__ import annotations

import functools
from collections.abc import Collection, Iterator
from typing import Any

from torch import nn

from mhc_compile import _torch_compat as compat
from mhc_compile.programs.dispatch import FORWARD
from mhc_compile.programs.ownership import Served
from mhc_compile.programs.plain_twin import disown
from mhc_compile.programs.unsharded import Seen, is_wrapped, make_whole
from mhc_compile.twin.looks import for_trace
from mhc_compile.twin.offload import loaded_devices
from mhc_compile.twin.parallel import for_whole_calls
from mhc_compile.twin.patched_classes import ORIGINAL


def plain_part(owner: Served, path: str, whole: Collection[str] = (), method: str = FORWARD) -> nn.Module:
    """The original code of a module of `owner`, over its parameters and under the names they have in the whole.

    Args:
        owner: the model.
        path: name of the module, "" for the model itself.
        whole: names of modules that get marks on their borders, see `mhc_compile.twin.parallel`.
        method: of the module, what a call of the result runs.
    """
    door = owner.get_submodule(path) if path else None
    look = for_whole_calls(owner, whole, door) if whole else functools.partial(for_trace, door=door)
    plain = disown(owner, look)
    make_whole(plain, _seen_by_code(owner))
    if path:
        return part_of(plain, path, method)
    return plain if method == FORWARD else _through_method(plain, method)


def _seen_by_code(owner: nn.Module) -> dict[int, Seen]:
    """Id of each tensor to be seen otherwise -> how: as one process would, loaded, without `torch.func` around."""
    modules = dict(owner.named_modules())
    dtypes, loaded = compat.sharded_dtypes(modules.values()), loaded_devices(modules)
    seen: dict[int, Seen] = {}
    for registry, kind in (r for m in modules.values() for r in _registries(m)):
        for name, tensor in registry.items():
            if tensor is None:
                continue
            moved = tensor.is_meta and (id(registry), name) in loaded
            other = kind is not None and not isinstance(tensor, kind)  # `functional_call` puts plain tensors there
            if id(tensor) in dtypes or moved or other or compat.is_cut(tensor) or is_wrapped(tensor):
                device = loaded[id(registry), name][1] if moved else tensor.device
                seen[id(tensor)] = (dtypes.get(id(tensor), tensor.dtype), device)
    return seen


def _registries(module: nn.Module) -> Iterator[tuple[dict[str, Any], type | None]]:
    """Where a module has its tensors, with the class of those that code sees there."""
    yield module._parameters, nn.Parameter
    yield module._buffers, None
    yield vars(module).get(compat.FORMER_PARAMETERS, {}), nn.Parameter


def _through_method(model: nn.Module, method: str) -> nn.Module:
    """The model itself, a call of which is one of a method."""
    kind: Any = type(model)

    def forward(self: nn.Module, *args: Any, **kwargs: Any) -> Any:
        return getattr(kind, method)(self, *args, **kwargs)

    names = {"__module__": kind.__module__, "forward": forward, ORIGINAL: kind}
    through: nn.Module = object.__new__(type.__new__(type(kind), kind.__name__, (kind,), names))
    vars(through).update({name: value for name, value in vars(model).items() if name != FORWARD})
    return through


def part_of(model: nn.Module, path: str, method: str = FORWARD) -> nn.Module:
    """A module with the parts of `model`, a call of which is one of its module `path`, or of a method of that."""
    parts = path.split(".")

    class Part(nn.Module):
        def forward(self, *args: Any, **kwargs: Any) -> Any:
            module: Any = self
            for part in parts:
                module = getattr(module, part)
            return module(*args, **kwargs) if method == FORWARD else getattr(module, method)(*args, **kwargs)

    part: nn.Module = object.__new__(Part)
    vars(part).update(vars(model))
    return part
