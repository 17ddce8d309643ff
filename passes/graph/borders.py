"""Marks in a trace of the border of a module that is to be called as a whole: what goes in, and what comes out.

A mark is an operator on one tensor that changes nothing (a `Kind.COPY` to the passes). It never runs: behind the
rewrite the nodes between the marks of a call are left out, and the module itself is called, see
`passes/split/whole_calls.py`.
"""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

import torch
from torch import Tensor, fx
from torch.fx.node import has_side_effect


@torch.library.custom_op("mhc::module_border", mutates_args=())
def _border(x: Tensor, form: str, index: int, inward: bool) -> Tensor:
    return x.clone()


@_border.register_fake
def _(x: Tensor, form: str, index: int, inward: bool) -> Tensor:
    return torch.empty_like(x)


BORDER: Any = torch.ops.mhc.module_border.default
has_side_effect(BORDER)  # a tensor that a module is given and does not use is given to it all the same


def marked(value: Any, inward: bool) -> Any:
    """The arguments or the result of a call with a mark on each tensor. Plain Python, which Dynamo traces."""
    tensors: list[Tensor] = []
    form = _form(value, tensors)
    return _put(value, iter([BORDER(t, form, i, inward) for i, t in enumerate(tensors)]))


def _form(value: Any, tensors: list[Tensor]) -> str:
    """An expression for a value in which `t[i]` is the i-th of its tensors, which are put into a list."""
    if isinstance(value, Tensor):
        tensors.append(value)
        return f"t[{len(tensors) - 1}]"
    if type(value) in (tuple, list):
        inner = "".join([_form(v, tensors) + ", " for v in value])
        return f"({inner})" if type(value) is tuple else f"[{inner}]"
    if type(value) is dict:
        return "{" + "".join([f"{key!r}: {_form(v, tensors)}, " for key, v in value.items()]) + "}"
    if value is None or type(value) in (bool, int, float, str):
        return repr(value)
    return f"unknown({type(value).__name__!r})"


def _put(value: Any, tensors: Iterator[Tensor]) -> Any:
    if isinstance(value, Tensor):
        return next(tensors)
    if type(value) is tuple:
        return tuple([_put(v, tensors) for v in value])
    if type(value) is list:
        return [_put(v, tensors) for v in value]
    if type(value) is dict:
        return {key: _put(v, tensors) for key, v in value.items()}
    return value


def is_border(node: fx.Node, inward: bool | None = None) -> bool:
    """Whether a node is a mark, of what goes in or comes out if that is asked."""
    return node.target is BORDER and (inward is None or node.args[3] is inward)


class UnknownValueError(Exception):
    """Something that is no tensor, number or text crosses a border; the message is its class."""


def _unknown(kind: str) -> Any:
    raise UnknownValueError(kind)


def filled(form: str, tensors: list[Any]) -> Any:
    """The value that a form describes, with these in place of its tensors.

    Raises:
        UnknownValueError: the form has something in it that a program cannot hold.
        IndexError: it has more tensors than these.
    """
    names = {"t": tensors, "unknown": _unknown, "inf": float("inf"), "nan": float("nan"), "__builtins__": {}}
    return eval(form, names)  # the text was written by `_form`
