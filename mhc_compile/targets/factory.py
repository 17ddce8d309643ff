"""`package.module:factory` and `file.py:factory`: the user's own models."""

from __future__ import annotations

import importlib
import traceback
from collections.abc import Mapping
from difflib import get_close_matches
from pathlib import Path
from types import ModuleType
from typing import Any

import torch
from torch import nn

from mhc_compile.errors import FactoryError, UnknownTargetError
from mhc_compile.targets.files import file_of, import_file, importable
from mhc_compile.targets.inputs import to_device
from mhc_compile.targets.target import Target, build_on, device_of, summary

_RETURNS = "return a torch.nn.Module, or (model, example_inputs)"


def resolve_factory(target: str, *, device: str, config: Mapping[str, object]) -> Target:
    """Import the module or file of `target` and call its factory with `config`.

    The factory is a callable (a function or a module class) that returns a module, or a module itself. It may return
    `(model, example_inputs)`, where the inputs are a tensor, a tuple of positional or a dict of keyword inputs.

    Raises:
        UnknownTargetError: the module, file or attribute does not exist.
        FactoryError: the import or the factory raised, or what it made is not a module.
    """
    place, _, attribute = target.rpartition(":")
    path = file_of(target)
    with importable(path):
        module = _load_module(place, target) if path is None else _load_file(path, place, target)
        factory = _attribute(module, attribute, target)
        made, notes = _call(factory, device, config, target, module)
    model, args, kwargs = _unpack(made, target)
    here = device_of(model, device)
    return Target(target, model.eval(), to_device(args, here), to_device(kwargs, here), notes)


def _load_file(path: Path, place: str, target: str) -> ModuleType:
    if not path.is_file():
        raise UnknownTargetError(f"{target}: there is no file {place!r}: write the path of a Python file")
    try:
        return import_file(path)
    except (Exception, SystemExit) as error:
        raise _raised(f"importing {place}", error, str(path)) from error


def _load_module(name: str, target: str) -> ModuleType:
    try:
        return importlib.import_module(name)
    except ModuleNotFoundError as error:
        if error.name is None or not f"{name}.".startswith(f"{error.name}."):
            raise _raised(f"importing {name}", error, "") from error
        near = get_close_matches(name, ["timm", "torchvision", "hf"], n=1, cutoff=0.5)
        hint = f"did you mean {near[0]}:{target.rpartition(':')[2]}?" if near else "check the name, or give a file.py."
        raise UnknownTargetError(f"{target}: there is no Python module {error.name!r}: {hint}") from error
    except (Exception, SystemExit) as error:
        raise _raised(f"importing {name}", error, "") from error


def _attribute(module: ModuleType, path: str, target: str) -> Any:
    value: Any = module
    for name in path.split("."):
        if not hasattr(value, name):
            near = get_close_matches(name, [n for n in dir(value) if not n.startswith("_")], n=3)
            hint = f"did you mean {', '.join(near)}?" if near else "write the name of a factory or module class."
            place = target.rpartition(":")[0]
            if Path(f"{place}.py").is_file():  # it was asked for by a name that another module has
                hint = f"for the file {place}.py write {place}.py:{path}"
            raise UnknownTargetError(f"{target}: {place} has no {path!r}: {hint}")
        value = getattr(value, name)
    return value


def _call(
    factory: Any, device: str, config: Mapping[str, object], target: str, module: ModuleType
) -> tuple[Any, tuple[str, ...]]:
    if isinstance(factory, nn.Module):
        return factory, ()
    if not callable(factory):
        raise FactoryError(f"{target} is a {type(factory).__name__}, not a factory: {_RETURNS} from a function")
    try:
        return build_on(device, lambda: factory(**config))
    except (Exception, SystemExit) as error:
        raise _raised(f"the factory {target}", error, getattr(module, "__file__", None) or "") from error


def _raised(what: str, error: BaseException, file: str) -> FactoryError:
    """The error with the place in the user's own file, or else the innermost place there is."""
    frames = traceback.extract_tb(error.__traceback__)
    own = [frame for frame in frames if file and Path(frame.filename) == Path(file).resolve()]
    place = ""
    if own or frames:
        frame = (own or frames)[-1]
        place = f"\n  at {frame.filename}:{frame.lineno}: {frame.line}"
    if isinstance(error, SyntaxError):  # has no frame of its own
        place = f"\n  at {error.filename}:{error.lineno}: {(error.text or '').strip()}"
    return FactoryError(f"{what} raised {type(error).__name__}: {summary(error)}{place}")


def _unpack(made: Any, target: str) -> tuple[nn.Module, tuple[Any, ...], dict[str, Any]]:
    pair = isinstance(made, tuple) and len(made) == 2
    model, inputs = made if pair else (made, ())
    if not isinstance(model, nn.Module):
        raise FactoryError(f"the factory {target} returned a {type(made).__name__}: {_RETURNS}")
    if isinstance(inputs, torch.Tensor):
        return model, (inputs,), {}
    if isinstance(inputs, Mapping):
        return model, (), dict(inputs)
    if not isinstance(inputs, (tuple, list)):
        raise FactoryError(
            f"the factory {target} returned a {type(inputs).__name__} as example inputs: "
            "return a tensor, a tuple of positional inputs or a dict of keyword inputs"
        )
    return model, tuple(inputs), {}
