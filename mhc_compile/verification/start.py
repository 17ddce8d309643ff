"""The check that `transform` makes by itself where it is quick: whether the result starts as the model.

Nothing but a wrong value counts here. What cannot be run or copied is seen at the first call, or by `verify=True`.
"""

from __future__ import annotations

import warnings

import torch
from torch import nn

from mhc_compile._torch_compat import tree_flatten
from mhc_compile.capture.inputs import Inputs
from mhc_compile.model.making import Made, Trace
from mhc_compile.model.preserved import why_not_preserving
from mhc_compile.verification.calls import Call, copied
from mhc_compile.verification.compare import allowed, distance, floats

MOST_INPUTS, MOST_WEIGHTS = 1 << 18, 1 << 25
"""Elements up to which a model is run: beyond, four calls would show beside the traces."""

_HOOKS = ("_forward_hooks", "_forward_pre_hooks", "_backward_hooks", "_backward_pre_hooks")


def is_quick(model: nn.Module, inputs: Inputs | None) -> bool:
    """Whether a model can be run beside its traces: small, with values, and without hooks that would see the calls."""
    if inputs is None or torch.compiler.is_compiling() or _is_one_of_several():
        return False
    flat = [value for value in tree_flatten((inputs.args, inputs.kwargs))[0] if isinstance(value, torch.Tensor)]
    weights = [*model.parameters(), *model.buffers()]
    if any(type(t) not in (torch.Tensor, nn.Parameter, nn.Buffer) or t.is_meta for t in (*flat, *weights)):
        return False
    if any(getattr(module, hooks) for module in model.modules() for hooks in _HOOKS):
        return False
    return sum(t.numel() for t in flat) <= MOST_INPUTS and sum(t.numel() for t in weights) <= MOST_WEIGHTS


def starts_otherwise(original: nn.Module, made: Made) -> bool:
    """Whether the result computes something else than the model in a mode that was traced."""
    if made.owner is None or made.inputs is None or why_not_preserving(made.owner) is not None:
        return False
    kinds = {(trace.mode, trace.training): trace for trace in made.traces if trace.one_graph}
    with warnings.catch_warnings(action="ignore"):  # those of calls belong to the first one that is made
        return any(_differs(original, made.owner, made.inputs, trace) for trace in kinds.values())


def _differs(original: nn.Module, result: nn.Module, inputs: Inputs, trace: Trace) -> bool:
    call = Call(inputs, trace.mode, trace.training)
    try:
        expected = call.of(copied(original))
        found = call.of(copied(result))
        limit = allowed(expected)
        if not any(True for _ in floats(expected)) or distance(expected, found) <= limit:
            return False
        return distance(expected, call.of(copied(original))) <= limit
    except Exception:
        return False


def _is_one_of_several() -> bool:
    """Whether other processes may wait for what this one computes."""
    return torch.distributed.is_available() and torch.distributed.is_initialized()
