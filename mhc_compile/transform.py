"""The public functions on models: transform, plan, revert."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any, TypeVar

import torch
from torch import fx, nn

from mhc_compile._torch_compat import tree_flatten
from mhc_compile.capture.inputs import Inputs, missing_inputs, resolve_inputs
from mhc_compile.capture.wrapped import reject_wrapped
from mhc_compile.config import MODES, Config, check_modes, make_config
from mhc_compile.errors import (
    CaptureError,
    NoFloatError,
)
from mhc_compile.model.modes import ModeTrace, trace_modes, trace_one
from mhc_compile.model.owner import own
from mhc_compile.model.preserved import check_preserving
from mhc_compile.model.serve import follow
from mhc_compile.passes.plan.data import Plan, Reason
from mhc_compile.programs.dispatch import kind_of
from mhc_compile.programs.distributed import undistributed
from mhc_compile.programs.nothing_found import warn_of_nothing
from mhc_compile.programs.ownership import Served
from mhc_compile.programs.plain_twin import disown
from mhc_compile.programs.specs import initial_sites, weights_of
from mhc_compile.programs.untransformed import check_untransformed
from mhc_compile.programs.variants import add_program, training_mode
from mhc_compile.twin.hyper_connections import CHILD
from mhc_compile.twin.inference import make_ordinary
from mhc_compile.twin.parallel import mark_as_others
from mhc_compile.twin.reserved import OWNERSHIP, PLAN, check_free

Module = TypeVar("Module", bound=nn.Module)


def transform(
    model: Module,
    n: int = 4,
    *,
    example_inputs: Sequence[Any] | Any | None = None,
    example_kwargs: Mapping[str, Any] | None = None,
    modes: Sequence[str] = MODES,
    **options: Any,
) -> Module:
    """Rewrite the residual connections of a model into n-stream hyper-connections.

    Args:
        model: any module that Dynamo can trace. It stays usable and unchanged, but shares parameters with the result.
        n: number of streams, 1 to 8.
        example_inputs: positional inputs to trace with; a single tensor may stand for a tuple of one. Shapes and
            dtypes matter, values do not. None: what the model declares (`dummy_inputs`, `pretrained_cfg`,
            `example_input_array`).
        example_kwargs: keyword inputs to trace with.
        modes: trace for `"train"`, `"eval"` or both now. Any other kind of call is traced when it first happens.
        **options: fields of `Config`: connection, init, reduce, include, exclude, nested, min_sites, strict,
            recompute.

    Returns:
        An object of (a subclass of) the model's class with the child `hyper_connections` and the attribute `mhc_plan`.
        New parameters are fp32, or fp64 where the residual stream is. If there is nothing to rewrite, a warning is
        given (an error under `strict=True`) and the model itself is returned.

    Raises:
        MhcError: one class per cause, see `mhc_compile.errors`; the model is left as it was.
    """
    config = make_config(n, options)
    check_model(model)
    modes = check_modes(modes)
    inputs = resolve_inputs(model, example_inputs, example_kwargs)
    make_ordinary(model)
    with torch.inference_mode(False), torch.enable_grad():  # the result is to be trained, wherever this is called
        if inputs is None:
            plans, variants = [_plan_without_inputs(model, config)], []
        else:
            whole = undistributed(model)
            variants = trace_modes(model if whole is None else whole, inputs, config, modes)
            plans = [v.plan for v in variants]
            if whole is not None:
                variants = []  # programs call the modules as they are, and are traced at the first calls
        if not any(p.sites for p in plans):
            warn_of_nothing(plans[0], config)
            return model
        owner = own(model, initial_sites(plans, config, model), plans, config)
        owner.hyper_connections.weights.update(weights_of(plans))
        mark_as_others(model, owner.hyper_connections.parameters())
        for variant in variants:
            with training_mode(owner, variant.training):
                _serve(owner, variant, inputs)
        follow(owner)  # else the first compiled call would, and the next be compiled anew
    return owner  # type: ignore[return-value]  # a subclass of type(model), made on the fly


def plan(
    model: nn.Module,
    n: int = 4,
    *,
    example_inputs: Sequence[Any] | Any | None = None,
    example_kwargs: Mapping[str, Any] | None = None,
    **options: Any,
) -> Plan:
    """What `transform` would do, in the mode the model is in. Changes nothing; works on the meta device.

    Arguments and errors are those of `transform`; nothing to rewrite is neither an error nor a warning here.
    """
    config = make_config(n, options)
    check_model(model)
    inputs = resolve_inputs(model, example_inputs, example_kwargs)
    if inputs is None:
        return _plan_without_inputs(model, config)
    mode = "train" if model.training else "eval"
    return trace_one(model, inputs, config, mode, (mode,)).plan


def revert(model: nn.Module, *, strict: bool = False) -> nn.Module:
    """A plain object of the original class over the same, possibly trained, parameters, without hyper-connections.

    It computes what `model` does while the hyper-connections have their initial values under `init="preserve"`: fresh,
    loaded from a plain checkpoint, or frozen. Otherwise a `NotPreservingWarning` names the first that has moved.

    Args:
        model: a transformed model. It stays usable.
        strict: raise instead of warn.

    Raises:
        NotTransformedError: `model` was not made by `transform`.
        NotPreservingError: under `strict=True`, the plain model would compute something else.
    """
    plain = disown(model)
    assert isinstance(model, Served)
    check_preserving(model, strict=strict)
    return plain


def check_model(model: object) -> None:
    """Refuse what cannot be transformed, before anything is traced.

    Raises:
        MhcError: it is no module, is or holds a transformed or wrapped one, or uses a name that is needed.
    """
    model = check_untransformed(model)
    reject_wrapped(model)
    check_free(model, (CHILD, PLAN, OWNERSHIP))


def _serve(owner: Served, variant: ModeTrace, inputs: Inputs | None) -> None:
    entry = owner._mhc.entry("")
    if variant.captured is not None:
        add_program(owner, entry, variant.captured, variant.plan)
    elif inputs is not None:
        flat, tree = tree_flatten((inputs.args, inputs.kwargs))
        for gradients in (True, False):
            with torch.set_grad_enabled(gradients):
                entry.kinds.add(kind_of(owner, flat, tree))


def _plan_without_inputs(model: nn.Module, config: Config) -> Plan:
    """The plan by `symbolic_trace`, which needs no inputs; programs are then traced at the first calls."""
    from mhc_compile.passes.order import make_plan

    if not any(p.is_floating_point() or p.is_complex() for p in model.parameters()):
        raise NoFloatError(
            f"{type(model).__name__} has no floating point parameters, so nothing says that it computes on floats: "
            "pass floating point example_inputs"
        )
    try:
        found = make_plan(fx.symbolic_trace(model), config)
    except CaptureError:
        raise
    except Exception as error:
        raise missing_inputs(model, f"symbolic_trace: {error}") from error
    if not found.sites and any(r.reason is Reason.UNKNOWN_CHANNELS for r in found.rejected):
        raise missing_inputs(model, "the sizes of its residual connections are unknown")
    return found
