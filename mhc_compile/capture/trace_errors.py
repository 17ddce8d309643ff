"""What PyTorch says when a model cannot be traced, turned into errors that say what to write."""

from __future__ import annotations

import re
from collections.abc import Mapping, Sequence
from typing import Any

import torch
from torch import nn

from mhc_compile import _torch_compat as compat
from mhc_compile.errors import CaptureError, GraphBreakError, InputMismatchError

_INNER_MESSAGE = re.compile(r"got (\w+)\((['\"])(.*)\2\)", re.DOTALL)
_RAISED = re.compile(r"raised exception (.*)")


def describe_call(model: nn.Module, args: Sequence[Any], kwargs: Mapping[str, Any]) -> str:
    """The call in one line, tensors as `float32[2, 3]`: `Model(float32[2, 3], mask=None)`."""
    parts = [_describe(a) for a in args] + [f"{k}={_describe(v)}" for k, v in kwargs.items()]
    return f"{type(model).__name__}({', '.join(parts)})"


def describe_tensor(value: torch.Tensor) -> str:
    """Dtype and shape, such as `float32[2, 3]`."""
    return f"{str(value.dtype).removeprefix('torch.')}{list(value.shape)}"


def _describe(value: Any) -> str:
    if isinstance(value, torch.Tensor):
        return describe_tensor(value)
    text = repr(value)
    return text if len(text) <= 40 else f"{type(value).__name__}(...)"


def takes_objects(error: Exception) -> bool:
    """Whether the capture failed because objects that are no tensors, such as caches, go in or come out."""
    return any(text in str(error) for text in ("unrecognized type", "pytree-flattenable"))


def translate(error: Exception, model: nn.Module, args: Sequence[Any], kwargs: Mapping[str, Any]) -> CaptureError:
    """The user error behind an exception of the capture; the caller raises it from `error`."""
    call = describe_call(model, args, kwargs)
    where = _where(error)
    if isinstance(error, compat.TorchRuntimeError):
        return _mismatch(call, where, _innermost(str(error)) or _headline(error))
    if isinstance(error, compat.Unsupported):
        raised = _RAISED.search(str(error))
        if error.gb_type == "Observed exception" and raised:
            return _mismatch(call, where, _innermost(raised.group(1)) or raised.group(1))
        return _graph_break(error, call, where)
    if "data-dependent" in str(error) or type(error).__name__ == "PendingUnbackedSymbolNotFound":
        return _graph_break(error, call, where)  # a size or a branch depends on values, which tracing does not know
    if isinstance(error, compat.UserError) or "unrecognized type" in str(error):  # the latter for outputs
        return _user_error(error, call, where)
    return CaptureError(
        f"tracing {call} failed{where}: {type(error).__name__}: {_headline(error)}\n"
        "Check that the model runs on these inputs; if it does, pass example_inputs that take a simpler path"
    )


def _innermost(text: str) -> str | None:
    """What the failing operator itself said, where PyTorch quotes it."""
    found = _INNER_MESSAGE.search(text)
    return found.group(3) if found else None


def _mismatch(call: str, where: str, message: str) -> InputMismatchError:
    return InputMismatchError(
        f"{call} raises{where}: {message}\n"
        "Pass inputs the model accepts: model(*example_inputs, **example_kwargs) must run"
    )


def _graph_break(error: Exception, call: str, where: str) -> GraphBreakError:
    hints = re.findall(r"Hint: (.*)", str(error))
    explanation = re.search(r"Explanation: (.*)", str(error))
    lines = [f"{call} cannot be traced into one graph{where}: {_headline(error)}"]
    lines += [explanation.group(1)] if explanation else []
    lines += [f"PyTorch suggests: {hint}" for hint in hints[:2]]
    if "`lock`" in str(error):  # Hugging Face guards what it installs at the first call with a lock
        lines.append("Call the model once before: some libraries finish setting it up at the first call")
    lines.append("Change that line, or pass example_inputs or example_kwargs that do not reach it")
    return GraphBreakError("\n".join(lines))


def _user_error(error: Exception, call: str, where: str) -> CaptureError:
    text = _headline(error)
    advice = "pass example_inputs and example_kwargs made of tensors, numbers, strings, lists, tuples and dicts"
    if "output" in text.lower() or "return" in text.lower():
        advice = (
            "return tensors, lists, tuples or dicts, make the class known with "
            "torch.export.register_dataclass(TheClass), or switch that output off, "
            "for example example_kwargs={'use_cache': False}"
        )
    return CaptureError(f"tracing {call} failed{where}: {text}\nWhat to write: {advice}")


def _headline(error: Exception) -> str:
    lines = [line.strip() for line in str(error).splitlines() if line.strip()]
    return lines[0] if lines else type(error).__name__


def _where(error: Exception) -> str:
    """` at file:line in function` of the innermost frame that belongs to the user, "" if unknown."""
    frames = list(getattr(error, "real_stack", None) or ())
    own = [f for f in frames if "/torch/" not in f.filename]
    return f" at {own[-1].filename}:{own[-1].lineno} in {own[-1].name}" if own else ""
