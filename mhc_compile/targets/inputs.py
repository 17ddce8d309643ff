"""Example inputs from the command line: `2x3x224x224:float32` or `input_ids=2x16:int64`."""

from __future__ import annotations

import re
from collections.abc import Mapping, Sequence
from dataclasses import replace
from typing import Any, NamedTuple

import torch

from mhc_compile.errors import InvalidOptionError
from mhc_compile.targets.target import Target, device_of

_SPEC = re.compile(r"(?:(?P<name>[A-Za-z_]\w*)=)?(?P<shape>\d+(?:x\d+)*)(?::(?P<dtype>\w+))?")
_DTYPES = {
    "float64": torch.float64,
    "float32": torch.float32,
    "float16": torch.float16,
    "bfloat16": torch.bfloat16,
    "int64": torch.int64,
    "int32": torch.int32,
    "int8": torch.int8,
    "uint8": torch.uint8,
    "bool": torch.bool,
}
_EXAMPLE = "write for example 2x3x224x224:float32, or name=2x16:int64 for a keyword input"


class InputSpec(NamedTuple):
    """Name (None: positional), shape and dtype of one example input."""

    name: str | None
    shape: tuple[int, ...]
    dtype: torch.dtype


def parse_input_spec(text: str) -> InputSpec:
    """Read `[name=]SHAPE[:dtype]`, where SHAPE is sizes joined by `x` and the dtype is float32 by default.

    Raises:
        InvalidOptionError: the text has another form, a size is 0, or the dtype is not known.
    """
    match = _SPEC.fullmatch(text.strip())
    if match is None:
        raise InvalidOptionError(f"the input {text!r} cannot be read: {_EXAMPLE}")
    shape = tuple(int(size) for size in match["shape"].split("x"))
    if 0 in shape:
        raise InvalidOptionError(f"the input {text!r} has a size of 0, so nothing can be traced: {_EXAMPLE}")
    dtype = match["dtype"] or "float32"
    if dtype not in _DTYPES:
        raise InvalidOptionError(
            f"the input {text!r} has the unknown dtype {dtype!r}: write one of {', '.join(_DTYPES)}"
        )
    return InputSpec(match["name"], shape, _DTYPES[dtype])


def make_tensor(spec: InputSpec, device: torch.device | str) -> torch.Tensor:
    """A tensor that fits `spec`: ones for masks and bools, small integers, standard normal floats."""
    name, shape, dtype = spec
    if dtype is torch.bool or (name is not None and name.endswith("mask")):
        return torch.ones(shape, dtype=dtype, device=device)
    if dtype.is_floating_point:
        return torch.randn(shape, dtype=dtype, device=device)
    return torch.randint(0, 10, shape, dtype=dtype, device=device)


def with_inputs(target: Target, specs: Sequence[str]) -> Target:
    """`target` with the inputs of `specs` in place of every default tensor; options such as `use_cache` stay.

    All defaults go, because their sizes seldom fit the new ones.

    Raises:
        InvalidOptionError: a spec cannot be read, or two have the same name.
    """
    if not specs:
        return target
    device = device_of(target.model, "cpu")
    parsed = [parse_input_spec(text) for text in specs]
    names = [spec.name for spec in parsed if spec.name is not None]
    if len(names) != len(set(names)):
        twice = next(name for name in names if names.count(name) > 1)
        raise InvalidOptionError(f"the input {twice!r} is given twice: write each keyword input once")
    kwargs = {key: value for key, value in target.example_kwargs.items() if not _holds_tensor(value)}
    kwargs |= {spec.name: make_tensor(spec, device) for spec in parsed if spec.name is not None}
    args = tuple(make_tensor(spec, device) for spec in parsed if spec.name is None)
    return replace(target, example_inputs=args, example_kwargs=kwargs)


def to_device(value: Any, device: torch.device) -> Any:
    """`value` with every tensor in its tuples, lists and dicts moved to `device`."""
    if isinstance(value, torch.Tensor):
        return value.to(device)
    if isinstance(value, Mapping):
        return {key: to_device(item, device) for key, item in value.items()}
    if type(value) in (tuple, list):
        return type(value)(to_device(item, device) for item in value)
    return value


def _holds_tensor(value: Any) -> bool:
    if isinstance(value, Mapping):
        return any(map(_holds_tensor, value.values()))
    if isinstance(value, (tuple, list)):
        return any(map(_holds_tensor, value))
    return isinstance(value, torch.Tensor)
