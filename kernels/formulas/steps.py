"""What the steps of `packed.py` take, read off their signatures: for all that treats them alike."""

from __future__ import annotations

import inspect
from functools import cache
from typing import Any

from mhc_compile.kernels.formulas import packed


@cache
def tensors_of(step: str) -> tuple[str, ...]:
    """Names of the tensors that a step takes, in order; its constants come behind them, `n` first."""
    names = list(inspect.signature(getattr(packed, step)).parameters)
    return tuple(names[: names.index("n")])


@cache
def constants_of(step: str) -> tuple[str, ...]:
    """Names of the constants of a step, in order."""
    return tuple(inspect.signature(getattr(packed, step)).parameters)[len(tensors_of(step)) :]


@cache
def _defaults(step: str) -> tuple[Any, ...]:
    return tuple(parameter.default for parameter in inspect.signature(getattr(packed, step)).parameters.values())


def complete(step: str, args: tuple[Any, ...]) -> tuple[Any, ...]:
    """Arguments with the default of the last one, `connection`, which PyTorch's dispatcher leaves out."""
    return (*args, *_defaults(step)[len(args) :])


def split(step: str, args: tuple[Any, ...]) -> tuple[dict[str, Any], dict[str, Any]]:
    """Tensors and constants of a call by name, complete."""
    tensors, constants = tensors_of(step), constants_of(step)
    given = complete(step, args)
    return dict(zip(tensors, given, strict=False)), dict(zip(constants, given[len(tensors) :], strict=True))
