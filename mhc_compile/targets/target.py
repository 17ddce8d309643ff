"""What a target resolves to, and the two errors every kind of target shares."""

from __future__ import annotations

import importlib
from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass, field
from difflib import get_close_matches
from types import ModuleType
from typing import Any

import torch
from torch import nn

from mhc_compile.errors import FactoryError, InvalidOptionError, MhcError, MissingPackageError, UnknownTargetError


@dataclass(frozen=True)
class Target:
    """A model ready to be traced.

    Attributes:
        name: the target as the user wrote it.
        model: the model in evaluation mode, on the meta device unless a note says otherwise.
        example_inputs: positional inputs, on the model's device. Empty if none are known.
        example_kwargs: keyword inputs, on the model's device.
        notes: sentences for the report, for example why the meta device was not used.
    """

    name: str
    model: nn.Module
    example_inputs: tuple[Any, ...] = ()
    example_kwargs: dict[str, Any] = field(default_factory=dict)
    notes: tuple[str, ...] = ()


def require(package: str) -> ModuleType:
    """Import an optional package.

    Raises:
        MissingPackageError: it is not installed, or its import fails.
    """
    try:
        return importlib.import_module(package)
    except ImportError as error:
        raise MissingPackageError(
            f"the target needs {package}, whose import fails ({error}): run `pip install mhc-compile[zoo]`"
        ) from error


def unknown_model(scheme: str, name: str, known: Iterable[str]) -> UnknownTargetError:
    """The error for a name that a library does not have, with the nearest names it does have."""
    names = list(known)
    longer = sorted((n for n in names if n.startswith(name)), key=len)
    near = list(dict.fromkeys([*longer, *get_close_matches(name, names, n=4, cutoff=0.5)]))[:4]
    hint = f"did you mean {', '.join(f'{scheme}:{n}' for n in near)}?" if near else "no name comes near."
    return UnknownTargetError(f"{scheme} has no model {name!r}: {hint}")


def cannot_build(name: str, config: Mapping[str, object], error: Exception) -> MhcError:
    """The error for a library model whose constructor raised: the options are to blame if there are any."""
    why = f"{type(error).__name__}: {summary(error)}"
    if not config:
        return FactoryError(f"{name} cannot be built with its defaults ({why}): set what it asks for with --config")
    options = " ".join(f"{key}={value}" for key, value in config.items())
    return InvalidOptionError(f"{name} cannot be built with {options} ({why}): write options its constructor takes")


def build_on(device: str, make: Callable[[], Any]) -> tuple[Any, tuple[str, ...]]:
    """Call `make` with `device` as the default device; if it fails on the meta device, once more on the CPU.

    Constructors that read a value (`.item()`, `.numpy()`) cannot run on the meta device, which has none.

    Returns:
        What `make` returned, and a note if the CPU had to be used.
    """
    if device != "meta":
        with torch.device(device):
            return make(), ()
    try:
        with torch.device("meta"):
            return _moved(make()), ()
    except Exception as error:
        reason = f"{type(error).__name__}: {summary(error)}"
    return make(), (f"built on the CPU with real memory, because its constructor fails on the meta device ({reason})",)


def _moved(made: Any) -> Any:
    """`made` with its modules wholly on the meta device: `torch.Tensor(3)` ignores the default device."""
    for part in made if isinstance(made, tuple) else (made,):
        if isinstance(part, nn.Module):
            part.to("meta")
    return made


def device_of(model: nn.Module, default: str) -> torch.device:
    """Device of the first parameter or buffer, `default` if there is none."""
    for tensor in (*model.parameters(), *model.buffers()):
        return tensor.device
    return torch.device(default)


def summary(error: BaseException) -> str:
    """The message of an exception on one line of at most 200 characters."""
    text = " ".join(str(error).split()) or "no message"
    return text if len(text) <= 200 else f"{text[:197]}..."
