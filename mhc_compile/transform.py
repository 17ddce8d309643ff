"""The public functions on models: transform, plan, revert, verify."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING, Any, TypeVar

from torch import nn

from mhc_compile.capture.inputs import resolve_inputs
from mhc_compile.config import MODES, check_modes, make_config
from mhc_compile.model.making import check_model, make, plan_without_inputs
from mhc_compile.model.modes import trace_one
from mhc_compile.model.preserved import check_preserving
from mhc_compile.passes.plan.data import Plan
from mhc_compile.programs.nothing_found import warn_of_nothing
from mhc_compile.programs.ownership import Served
from mhc_compile.programs.plain_twin import disown
from mhc_compile.twin.reserved import PLAN
from mhc_compile.verification.start import is_quick, starts_otherwise

if TYPE_CHECKING:
    from mhc_compile.verification.examine import Verification

Module = TypeVar("Module", bound=nn.Module)


def transform(
    model: Module,
    n: int = 4,
    *,
    example_inputs: Sequence[Any] | Any | None = None,
    example_kwargs: Mapping[str, Any] | None = None,
    modes: Sequence[str] = MODES,
    verify: bool | None = None,
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
        verify: run copies of the model and of the result, in every traced mode, and raise an error if the result
            computes something else: the inputs need values then, and they do matter. See `mhc_compile.verify`.
            None: only whether the result starts as the model, and only where that is quick (`docs/api.md`).
        **options: fields of `Config`: connection, init, reduce, include, exclude, nested, min_sites, strict,
            recompute.

    Returns:
        An object of (a subclass of) the model's class with the child `hyper_connections` and the attribute `mhc_plan`.
        New parameters are fp32, or fp64 where the residual stream is. If there is nothing to rewrite, a warning is
        given (an error under `strict=True`) and the model itself is returned, with a plan that says why.

    Raises:
        MhcError: one class per cause, see `mhc_compile.errors`; the model is left as it was.
    """
    config = make_config(n, options)
    check_model(model)
    inputs = resolve_inputs(model, example_inputs, example_kwargs)
    if verify:
        from mhc_compile.verification import examine  # with the kernels, which `import mhc_compile` does without

        examine.check_values(model, inputs)
    made = make(model, inputs, config, check_modes(modes), keep_graphs=bool(verify))
    if made.owner is None:
        warn_of_nothing(made.plans[0], config)
        vars(model)[PLAN] = made.plans[0]
        return model
    if verify:
        examine.raise_failures(examine.verification_of(model, made))
    elif verify is None and is_quick(model, inputs) and starts_otherwise(model, made):
        from mhc_compile.verification import examine  # see above

        again = make(model, inputs, config, check_modes(modes), keep_graphs=True)  # to say who is to blame
        examine.raise_failures(examine.verification_of(model, again))
    return made.owner  # type: ignore[return-value]  # a subclass of type(model), made on the fly


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
        return plan_without_inputs(model, config)
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


def verify(
    model: nn.Module,
    n: int = 4,
    *,
    example_inputs: Sequence[Any] | Any | None = None,
    example_kwargs: Mapping[str, Any] | None = None,
    modes: Sequence[str] = MODES,
    **options: Any,
) -> Verification:
    """Transform a model, run copies of both, and say how far they are from each other and from the formulas.

    In every mode: the result computes what the model does, with the same random numbers; once noise has moved its new
    parameters, it computes what plain PyTorch formulas of the plan do, and the same in both modes if the model does.
    Arguments and errors are those of `transform`; a check that fails is no error here.

    Raises:
        NothingToTransformError: nothing can be rewritten.
        VerificationError: there are no values to compute with, or the model cannot be copied.
    """
    from mhc_compile.verification import examine  # see transform

    config = make_config(n, options)
    check_model(model)
    inputs = resolve_inputs(model, example_inputs, example_kwargs)
    examine.check_values(model, inputs)
    return examine.verification_of(model, make(model, inputs, config, check_modes(modes), keep_graphs=True))
