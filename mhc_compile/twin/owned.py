"""What owns hyper-connections, as code below the transformed model may know it."""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass
from typing import Any

import torch
from torch import fx, nn

from mhc_compile.config import Config
from mhc_compile.errors import SymbolicTraceError, TorchScriptError
from mhc_compile.passes.plan.data import Plan
from mhc_compile.twin.hyper_connections import HyperConnections


@dataclass
class Conversion:
    """How a model was transformed.

    Attributes:
        original: class of the model that was transformed.
        config: options it was transformed with.
        plans: of all modes that were traced by `transform`; the first that names a key decides about its parameters.
    """

    original: type[nn.Module]
    config: Config
    plans: tuple[Plan, ...] = ()


def refuse_torchscript(*_: Any) -> Any:
    """Say what to write in place of `torch.jit`, which cannot read generated code, and makes tensors of its numbers.

    Raises:
        TorchScriptError: always.
    """
    raise TorchScriptError(
        "TorchScript cannot hold a transformed model: write torch.export.export(model, inputs) in place of torch.jit, "
        "and for ONNX torch.onnx.export(mhc_compile.export.decompose(exported), dynamo=True) (docs/export.md), or give "
        "it mhc_compile.revert(model), the plain model"
    )


def refuse_torchscript_trace() -> None:
    """Refuse a call inside of `torch.jit.trace`.

    Raises:
        TorchScriptError: it is one.
    """
    if torch.jit.is_tracing():  # type: ignore[attr-defined]
        refuse_torchscript()


def refuse_symbolic_trace(values: Iterable[Any]) -> None:
    """Refuse a call with inputs that are no values, but stand for them in `torch.fx.symbolic_trace`.

    Raises:
        SymbolicTraceError: there is one.
    """
    if any(isinstance(value, fx.Proxy) for value in values):
        raise SymbolicTraceError(
            "torch.fx.symbolic_trace cannot go through a transformed model, which chooses its code by the inputs: "
            "write torch.export.export(model, inputs).module(), or give it mhc_compile.revert(model), the plain model"
        )


class Owner(nn.Module):
    """A transformed model, or a stage of a pipeline that was cut from one."""

    _mhc: Conversion
    hyper_connections: HyperConnections
    __prepare_scriptable__ = refuse_torchscript
