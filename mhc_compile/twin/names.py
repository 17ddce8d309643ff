"""Names of modules in the tree of a model."""

from __future__ import annotations

from collections.abc import Iterator

from torch import nn

from mhc_compile import _torch_compat as compat
from mhc_compile.twin.hyper_connections import CHILD


def lies_in(name: str, path: str) -> bool:
    """Whether a module is the one called `path`, or inside it."""
    return not path or name == path or name.startswith(f"{path}.")


def named_modules(model: nn.Module) -> Iterator[tuple[str, nn.Module]]:
    """Modules by their first name, without wrappers for checkpointing and without the hyper-connections."""
    seen: set[int] = set()

    def walk(module: nn.Module, name: str) -> Iterator[tuple[str, nn.Module]]:
        module = compat.unwrapped(module)
        if id(module) in seen:
            return
        seen.add(id(module))
        yield name, module
        for key, child in module._modules.items():
            if child is not None and (name or key != CHILD):
                yield from walk(child, f"{name}.{key}" if name else key)

    return walk(model, "")
