"""One traced graph of a model, taken without running it and without leaving a mark on it."""

from __future__ import annotations

import threading
from collections.abc import Collection, Mapping, Sequence
from contextlib import nullcontext
from dataclasses import dataclass, replace
from types import MappingProxyType
from typing import Any

import torch
from torch import fx, nn

from mhc_compile import _torch_compat as compat
from mhc_compile.capture.attributes import check_constants, name_attributes
from mhc_compile.capture.autocast import ASKS_AUTOCAST, autocast_state, without_autocast
from mhc_compile.capture.graph_module import name_modules
from mhc_compile.capture.guards import GuardRecord, gradients_asked_for, recorded_guards
from mhc_compile.capture.input_spec import InputSpec, input_spec, joined
from mhc_compile.capture.places import reaches
from mhc_compile.capture.quick_shapes import quick_shapes
from mhc_compile.capture.reads import Reads
from mhc_compile.capture.side_effects import arguments_watched, lasting, watched
from mhc_compile.capture.spelling import check_forward, check_names_of
from mhc_compile.capture.trace_errors import takes_objects, translate
from mhc_compile.capture.undisturbed import undisturbed
from mhc_compile.errors import NoFloatError

TRACING = threading.RLock()
"""Dynamo's settings are those of the process, so one thread traces at a time."""

SEQUENCE_RANK = 3  # a float tensor of this rank is [batch, sequence, channels]


@dataclass(frozen=True)
class Captured:
    """A traced graph with what is needed to call it.

    Attributes:
        gm: torch-level graph; parameters are `get_attr` nodes named as in the model, one placeholder per flat input.
        input_spec: the calls it is valid for.
        out_spec: structure of the outputs.
        grad_mode: gradient mode it is valid under, None for both.
        autocast: what `autocast_state` must give, None if the code does not ask for it.
        reads: what the trace has read in the model and taken for constant.
        effects: what the model changes in a call besides its result and its buffers, which the graph leaves out.
        calls: Dynamo's key for calls of a module, up to "@", -> all names of the module.
        notes: what a user should know, such as sizes that had to be constants.
    """

    gm: fx.GraphModule
    input_spec: InputSpec
    out_spec: Any
    grad_mode: bool | None
    autocast: tuple[Any, ...] | None
    reads: Reads
    effects: tuple[str, ...]
    calls: Mapping[str, tuple[str, ...]]
    notes: tuple[str, ...] = ()


def capture(
    model: nn.Module,
    args: Sequence[Any] = (),
    kwargs: Mapping[str, Any] | None = None,
    *,
    dynamic: bool = True,
    path: str = "",
    open_axes: Mapping[int, Collection[int]] = MappingProxyType({}),
) -> Captured:
    """Trace `model(*args, **kwargs)` with fake tensors, in the mode the model is in and on any device, meta included.

    Args:
        model: hooks of the model itself are not traced (its owner runs them), those of submodules are.
        args: positional example inputs.
        kwargs: keyword example inputs.
        dynamic: leave batch and sequence sizes open. Where that fails they are constants, and a note says so.
        path: the one module of the model that is called, for a `part_of` it; its own hooks are not traced then.
        open_axes: further axes to leave open, by flat input.

    Raises:
        GraphBreakError: Dynamo met a construct it cannot trace.
        InputMismatchError: the model raises on these inputs.
        NoFloatError: nothing in the model is a floating point number.
        KeywordNameError: a parameter or buffer is called `in`, `lambda` or the like.
        DeferredForwardError: the forward is a coroutine or a generator.
        CaptureError: anything else that keeps the model from being traced.
    """
    check_names_of(model)
    check_forward(model)
    kwargs = dict(kwargs or {})
    failures: list[Exception] = []
    for attempt in _attempts(model, dynamic):
        try:
            with nullcontext() if attempt.gradients else torch.no_grad():
                traced = _attempt(model, args, kwargs, attempt.dynamic, open_axes)
                gm = traced.gm
                grad_mode = _grad_mode(traced)
        except Exception as error:
            failures.append(error)
            if takes_objects(error):
                break  # the other attempts would fail in the same way
            continue
        _check_float(model, gm)
        check_constants(gm, model)
        name_modules(gm, model)
        attributes = name_attributes(gm, model, traced.guards)
        spec = input_spec(gm, traced.flat, traced.tree, gradients=traced.asks_gradients)
        return Captured(
            gm,
            joined(gm, traced.flat, spec) if path else spec,
            gm.graph._codegen.pytree_info.out_spec,  # type: ignore[attr-defined]
            grad_mode,
            traced.autocast,
            Reads.of(model, traced.guards, path, gradients=traced.asks_gradients, attributes=attributes),
            lasting(traced.changed),
            _calls(model),
            attempt.notes(failures),
        )
    told = failures[min(1, len(failures) - 1)]  # with open sizes and without: the second names the cause more plainly
    raise translate(told, model, args, kwargs) from told


def _calls(model: nn.Module) -> dict[str, tuple[str, ...]]:
    names: dict[str, tuple[str, ...]] = {}
    for name, module in model.named_modules(remove_duplicate=False):
        names[str(id(module))] = (*names.get(str(id(module)), ()), name)
    return names


@dataclass(frozen=True)
class _Attempt:
    """One way to trace: with open sizes or constant ones, with gradients or without."""

    dynamic: bool
    gradients: bool = True

    def notes(self, failures: Sequence[Exception]) -> tuple[str, ...]:
        """What a user should know when this attempt worked after others failed."""
        if not failures:
            return ()
        why = type(failures[0]).__name__
        if not self.gradients:
            return (f"evaluation works under torch.no_grad() only, because tracing with gradients failed: {why}",)
        return (f"all sizes are constants, because tracing with open sizes failed: {why}",)


def _attempts(model: nn.Module, dynamic: bool) -> list[_Attempt]:
    attempts = [_Attempt(True), _Attempt(False)] if dynamic else [_Attempt(False)]
    if not model.training and torch.is_grad_enabled():
        attempts.append(_Attempt(dynamic, gradients=False))  # opens custom autograd functions that Dynamo cannot
    return attempts


@dataclass(frozen=True)
class _Traced:
    """What an attempt gives: the graph, its flat inputs and their structure, what changed, and Dynamo's guards.

    `asks_gradients` tells whether the code asks what requires gradients. `autocast` is the state it is valid under,
    None for any.
    """

    gm: fx.GraphModule
    flat: list[Any]
    tree: Any
    changed: set[str]
    guards: list[GuardRecord]
    asks_gradients: bool
    autocast: tuple[Any, ...] | None


def _attempt(
    model: nn.Module, args: Sequence[Any], kwargs: Mapping[str, Any], dynamic: bool, more: Mapping[int, Collection[int]]
) -> _Traced:
    flat, tree = compat.tree_flatten((tuple(args), dict(kwargs)))
    aliases = compat.tree_unflatten([_alias(v, dynamic, more.get(i, ())) for i, v in enumerate(flat)], tree)
    with without_autocast():
        traced, off = _trace(model, aliases, flat, tree), autocast_state()
    if not reaches(traced.guards, ASKS_AUTOCAST):
        return traced
    state = autocast_state()
    return replace(traced if state == off else _trace(model, aliases, flat, tree), autocast=state)


def _trace(model: nn.Module, inputs: Any, flat: list[Any], tree: Any) -> _Traced:
    with (
        TRACING,
        undisturbed(model),
        quick_shapes(),
        arguments_watched(model, inputs),
        recorded_guards() as guards,
        gradients_asked_for() as asked,
        watched() as changed,
    ):
        gm = compat.dynamo_graph_capture(model)(*inputs[0], **inputs[1])
        compat.restore_state_dict(model, gm)
        _put_in_order(gm, tree)
    return _Traced(gm, flat, tree, changed, guards, any(asked), None)


def _put_in_order(gm: fx.GraphModule, tree: Any) -> None:
    """Let a graph take flat inputs in the order of `tree`.

    What is traced was made anew of flat inputs, and an output of transformers has its fields in another order then.
    """
    order, _ = compat.tree_flatten(compat.tree_unflatten([*range(tree.num_leaves)], tree))
    if order == sorted(order):
        return
    inputs = gm.graph.find_nodes(op="placeholder")
    for _, node in sorted(zip(order, inputs, strict=True), key=lambda pair: -pair[0]):
        next(iter(gm.graph.nodes)).prepend(node)
    gm.recompile()


def _alias(value: Any, dynamic: bool, more: Collection[int]) -> Any:
    """A tensor to trace with: the marks of dynamic sizes must not stay on the user's own tensor."""
    if not isinstance(value, torch.Tensor):
        return value
    alias = value.detach().requires_grad_(value.requires_grad)
    for axis in {*_open_axes(value), *more} if dynamic else ():
        compat.maybe_mark_dynamic(alias, axis)
    return alias


def _open_axes(value: torch.Tensor) -> list[int]:
    """Batch, and the sequence axis of token ids and of rank 3 floats; sizes 0 and 1 always become constants."""
    has_sequence = value.dim() == SEQUENCE_RANK if value.is_floating_point() else value.dim() >= 2
    axes = [0, 1] if has_sequence else [0]
    return [a for a in axes[: value.dim()] if value.shape[a] > 1]


def _grad_mode(traced: _Traced) -> bool | None:
    """Dynamo leaves out switches without effect, so a trace without gradients never shows where the model has some."""
    if not torch.is_grad_enabled():
        return False
    if traced.asks_gradients or reaches(traced.guards, (torch.is_grad_enabled,)):  # a branch may have been taken for it
        return True
    return True if any(node.target is compat.set_grad_enabled for node in traced.gm.graph.nodes) else None


def _check_float(model: nn.Module, gm: fx.GraphModule) -> None:
    if any(p.is_floating_point() or p.is_complex() for p in model.parameters()):
        return
    values = [node.meta.get("val", node.meta.get("example_value")) for node in gm.graph.nodes]
    if not any(isinstance(v, torch.Tensor) and (v.is_floating_point() or v.is_complex()) for v in values):
        raise NoFloatError(
            f"{type(model).__name__} computes on integers only, so there is no floating point stream to widen: "
            "pass a model with floating point parameters, or floating point example_inputs"
        )
