"""The backend that compiles what the rewrite leaves: any that Dynamo knows by name, or a function."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import Any

from mhc_compile import _torch_compat as compat
from mhc_compile.errors import InvalidOptionError

Inner = Callable[..., Any]


def inner_backend(inner: str | Inner, mode: str | None, options: Mapping[str, Any] | None) -> Inner:
    """A function of a graph and its example inputs.

    Args:
        inner: a registered name (`inductor`, `eager`, `aot_eager`, `cudagraphs`, ...) or a backend function.
        mode: as for `torch.compile`, such as `reduce-overhead`.
        options: as for `torch.compile`, such as `{"max_autotune": True}`.

    Raises:
        InvalidOptionError: there is no backend of this name, or it is this package's own.
    """
    if inner == "mhc":
        raise InvalidOptionError("inner='mhc' would rewrite twice: write inner='inductor' or another backend")
    if inner == "inductor":
        wrapper: Inner = compat.TorchCompileInductorWrapper(mode, dict(options or {}), None)
        return wrapper
    try:
        found = compat.lookup_backend(inner)
    except Exception as error:
        raise InvalidOptionError(f"inner={inner!r} is no backend of torch.compile: {error}") from error
    keywords: dict[str, Any] = {"mode": mode} if mode and mode != "default" else {}
    if options:
        keywords["options"] = dict(options)
    return lambda gm, example_inputs: found(gm, example_inputs, **keywords)
