"""Calls for which there is no program yet; apart, because naming the decorator imports Dynamo."""

from __future__ import annotations

import logging
from collections.abc import Callable, Mapping
from functools import partial
from typing import Any, TypeVar

import torch

from mhc_compile import _torch_compat as compat
from mhc_compile._torch_compat import tree_flatten
from mhc_compile.capture.trace import TRACING
from mhc_compile.capture.trace_errors import describe_call
from mhc_compile.errors import CaptureError, InputMismatchError, KeywordNameError
from mhc_compile.model.fallback import Fallback
from mhc_compile.model.own_errors import own_error
from mhc_compile.programs.dispatch import Entry, kind_of
from mhc_compile.programs.distributed import refuse_fallback
from mhc_compile.programs.ownership import Served
from mhc_compile.programs.variants import add_variant
from mhc_compile.twin.owned import refuse_symbolic_trace

log = logging.getLogger(__name__)

MAX_ALIKE = 8
"""How many programs there may be for calls that differ in sizes and numbers only; Dynamo serves the rest."""

Function = TypeVar("Function", bound=Callable[..., Any])


def _never_compiled(function: Function) -> Function:
    reason = "mhc_compile has not traced this kind of call yet: call the model once before compiling it"
    wrapped: Function = torch.compiler.disable(function, reason=reason)
    return wrapped


@_never_compiled
def serve_new(owner: Served, entry: Entry, args: tuple[Any, ...], kwargs: Mapping[str, Any]) -> Any:
    """Run a call that no program serves: trace it, or hand it to Dynamo. At this, a Dynamo outside breaks its graph.

    Raises:
        CaptureError: `torch.export` is at work, whose values exist only while it traces, or neither can be done.
        Exception: what the code of the module raises.
    """
    try:
        return _serve(owner, entry, args, kwargs)
    except (InputMismatchError, compat.TorchRuntimeError) as error:
        refused = error
    # Out here: inside, the error of the trace would be told as the context of that of the user's code.
    raise own_error(owner, entry, args, kwargs, refused)


def _serve(owner: Served, entry: Entry, args: tuple[Any, ...], kwargs: Mapping[str, Any]) -> Any:
    with TRACING:  # what is asked next is true in all threads while one traces
        exporting = torch.compiler.is_exporting()
    if exporting:
        raise CaptureError(
            f"{type(owner).__name__} has not been traced for this kind of call yet: "
            "call the model once with the inputs to export, with or without torch.no_grad() as in the export, "
            "then export it; a size that shall stay open must be 2 or more"
        )
    flat, tree = tree_flatten((args, dict(kwargs)))
    refuse_symbolic_trace(flat)
    kind = kind_of(owner, flat, tree)
    if kind not in entry.kinds:
        with TRACING:  # first calls from several threads are traced one after the other
            program = entry.find(owner, flat, tree) or _trace(owner, entry, args, kwargs, kind)
            entry.find(owner, flat, tree)  # looks up where the new one reads, and has offloaded tensors loaded
        if program is not None and program.input_spec.tree == tree:
            return (entry.find(owner, flat, tree) or program)(owner, flat)  # `find` loads what is offloaded
    call = partial(describe_call, owner, args, kwargs)
    refuse_fallback(owner, call)
    _check_transforms(call)
    if entry.fallback is None:
        entry.fallback = Fallback(owner, entry.path, method=entry.method)
    return entry.fallback(args, kwargs)


def _check_transforms(call: Callable[[], str]) -> None:
    """Refuse what would run through Dynamo inside of `torch.func`, where Dynamo lets code run as it is.

    Raises:
        CaptureError: a transform is at work.
    """
    if compat.functorch_active():
        raise CaptureError(
            f"{call()} is no one graph, and Dynamo does not run it inside of a transform of torch.func (vmap, grad): "
            "call the model once outside, with logging.getLogger('mhc_compile').setLevel('INFO') to see why, and "
            "change that, or apply torch.func inside of the forward"
        )


def _trace(owner: Served, entry: Entry, args: tuple[Any, ...], kwargs: Mapping[str, Any], kind: Any) -> Any:
    """A new program; None if calls of this kind are for Dynamo."""
    flat, tree = tree_flatten((args, dict(kwargs)))
    alike = [p for p in entry.programs if p.input_spec.alike(flat, tree)]
    numbers = any(program.input_spec.other_numbers(flat) for program in alike)
    call = describe_call(owner if not entry.path else owner.get_submodule(entry.path), args, kwargs)
    if len(alike) >= MAX_ALIKE or numbers:
        log.info("%s goes through Dynamo from now on: a number or size changes from call to call", call)
        entry.kinds.add(kind)
        return None
    log.info("tracing %s: %s", call, entry.why_not(owner))
    try:
        program = add_variant(owner, entry, args, kwargs)
        why = "it changes more than its result"
    except (InputMismatchError, KeywordNameError):
        raise
    except CaptureError as error:
        program, why = None, str(error).partition("\n")[0]
    if program is None:
        log.info("%s goes through Dynamo: %s", call, why)
        entry.kinds.add(kind)
    return program
