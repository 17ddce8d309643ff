"""The backend that compiles what the rewrite leaves: any that Dynamo knows by name, or a function."""

from __future__ import annotations

import inspect
from collections.abc import Callable, Mapping
from dataclasses import dataclass, replace
from typing import Any

from mhc_compile import _torch_compat as compat
from mhc_compile.errors import InvalidOptionError

Compiled = Callable[..., Any]
"""Compiled code: called with the inputs of its graph."""

Inner = Callable[..., Compiled]
"""A backend: called with a graph and example inputs."""


@dataclass(frozen=True)
class InnerChoice:
    """Which inner backend a user chose.

    Attributes:
        inner: a registered name (`inductor`, `eager`, `aot_eager`, `cudagraphs`, ...) or a backend function.
        mode: as for `torch.compile`, such as `reduce-overhead`.
        options: as for `torch.compile`, such as `{"max_autotune": True}`.

    Raises:
        InvalidOptionError: it is this package's own backend.
    """

    inner: str | Inner = "inductor"
    mode: str | None = None
    options: Mapping[str, Any] | None = None

    def __post_init__(self) -> None:
        if self.inner == "mhc":
            raise InvalidOptionError("inner='mhc' would rewrite twice: write inner='inductor' or another backend")
        if not isinstance(self.inner, str) and not callable(self.inner):
            raise InvalidOptionError(f"inner={self.inner!r}: write a name such as 'inductor', or a function")

    def with_(self, mode: str | None, options: Mapping[str, Any] | None) -> InnerChoice:
        """The same with a mode and options of `torch.compile`, where there are any."""
        return replace(self, mode=mode or self.mode, options=options or self.options)

    def resolve(self) -> Inner:
        """A function of a graph and its example inputs.

        Raises:
            InvalidOptionError: there is no backend of this name, or it does not take this mode or these options.
        """
        if self.inner == "inductor":
            return self._inductor()
        try:
            found = compat.lookup_backend(self.inner)
        except compat.InvalidBackend as error:
            raise InvalidOptionError(f"inner={self.inner!r} is no backend of torch.compile: {error}") from error
        keywords: dict[str, Any] = {"mode": self.mode} if self.mode and self.mode != "default" else {}
        if self.options:
            keywords["options"] = dict(self.options)
        for name, value in keywords.items():
            if not _takes(found, name, named=isinstance(self.inner, str)):
                raise InvalidOptionError(
                    f"inner={self.inner!r} has no use for {name}={value!r}: leave it out, or write inner='inductor'"
                )
        return lambda gm, example_inputs: found(gm, example_inputs, **keywords)

    def _inductor(self) -> Inner:
        try:
            wrapper: Inner = compat.TorchCompileInductorWrapper(self.mode, dict(self.options or {}), None)
        except RuntimeError as error:  # an unknown mode, an unknown option, or one of another type
            problem = str(error).partition(", known options")[0]
            raise InvalidOptionError(f"mode={self.mode!r}, options={self.options!r}: {problem}") from error
        return wrapper


def _takes(function: Any, name: str, *, named: bool) -> bool:
    """Whether a backend has a use for this argument. PyTorch's own take any, and log that they ignore it."""
    module = getattr(function, "__module__", None) or ""
    parameters = inspect.signature(function).parameters
    ignores = named and module.partition(".")[0] == "torch"
    return name in parameters or (not ignores and any(p.kind is p.VAR_KEYWORD for p in parameters.values()))
