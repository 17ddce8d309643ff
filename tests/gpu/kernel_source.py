"""Kernels out of the text of a generated program."""

from __future__ import annotations

import ast
import linecache
from collections.abc import Callable
from itertools import count
from typing import Any

_NUMBERS = count()
_HEURISTICS = "from torch._inductor.runtime import triton_helpers, triton_heuristics"


def sources(program: str) -> dict[str, tuple[str, str]]:
    """Name in the program -> name of the function and source, for every Triton kernel."""
    found = {}
    for node in ast.parse(program).body:
        match node:
            case ast.Assign([ast.Name(name)], ast.Call(ast.Attribute(ast.Name("async_compile"), "triton"), [*given])):
                function, text = map(ast.literal_eval, given)
                found[name] = (function, text)
    return found


def load(name: str, source: str) -> tuple[Any, dict[str, Any], dict[str, Any]]:
    """The `triton.jit` function, and what Inductor says about it: `triton_meta` and `inductor_meta`."""
    text = source.replace(_HEURISTICS, "from torch._inductor.runtime import triton_helpers")
    text, path = text.replace("triton_helpers.set_driver_to_gpu()", ""), f"<generated kernel {next(_NUMBERS)}>"
    linecache.cache[path] = (len(text), None, text.splitlines(keepends=True), path)  # where Triton reads the source
    names: dict[str, Any] = {"__name__": path, "__file__": path, "triton_heuristics": _Heuristics()}
    exec(compile(text, path, "exec", dont_inherit=True), names)  # annotations stay what they are
    return names[name]


class _Heuristics:
    """In place of the module of this name: a decorator that keeps what it was given."""

    def __getattr__(self, name: str) -> Callable[..., Any]:
        return lambda **meta: lambda function: (function, meta["triton_meta"], meta["inductor_meta"])
