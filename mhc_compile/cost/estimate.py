"""The public function: what hyper-connections would cost in a model, on a device that need not be there."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor, nn

from mhc_compile._torch_compat import tree_flatten, tree_map
from mhc_compile.capture.inputs import Inputs, missing_inputs, resolve_inputs
from mhc_compile.capture.wrapped import reject_wrapped
from mhc_compile.config import Config, make_config
from mhc_compile.cost.count import Counted, count_step
from mhc_compile.cost.devices import Device, check_device, find_device
from mhc_compile.cost.figures import Estimate
from mhc_compile.cost.mixing import Mixing
from mhc_compile.cost.roofline import plain_step, row_of
from mhc_compile.errors import CaptureError, InvalidOptionError, NothingToTransformError
from mhc_compile.model.modes import trace_one
from mhc_compile.passes.plan.data import Plan, Site
from mhc_compile.passes.plan.steps import StepKind
from mhc_compile.programs.untransformed import check_untransformed
from mhc_compile.programs.variants import plan_of, training_mode

DEFAULT_N = (2, 4, 8)
_SHORT = 5e-3  # seconds
_UNTIMED = "kernels were timed on an H100 at n = 4 only: for {} the same time over that of the bytes is assumed"


@dataclass(frozen=True)
class _Step:
    """What is estimated: a model with the inputs of one training step."""

    model: nn.Module
    inputs: Inputs
    tokens: int | None
    dtype: torch.dtype | None


def estimate(
    model: nn.Module,
    device: str | Device = "h100",
    *,
    tokens: int | None = None,
    n: Sequence[int] | int = DEFAULT_N,
    connection: Sequence[str] | str = "mhc",
    dtype: torch.dtype | None = None,
    example_inputs: Sequence[Any] | Any | None = None,
    example_kwargs: Mapping[str, Any] | None = None,
    **options: Any,
) -> Estimate:
    """Estimate what a training step costs without and with hyper-connections. Works on the meta device; nothing runs.

    Args:
        model: any module that `transform` takes; it is not changed.
        device: `h100`, `a100`, `b200`, `mi300x`, `cpu` (measured for a second), or speeds of your own.
        tokens: of a step, at the first site; the batch is made so large. None: those of the example inputs.
        n: numbers of streams.
        connection: connections, as in `Config`; pairs that do not exist, such as `kronecker` at n = 3, are left out.
        dtype: of parameters and activations; None: bfloat16 on a GPU, the model's own on a CPU.
        example_inputs: as for `transform`; the length of sequences and the size of images are theirs.
        example_kwargs: as for `transform`.
        **options: further fields of `Config`.

    Returns:
        Figures with their formulas, for the plain model and for each pair of n and connection.

    Raises:
        InvalidOptionError: the device is not known, or an option is out of its domain.
        NothingToTransformError: the model has no site.
        CaptureError: the model cannot be traced, or its code does not run on fake tensors.
        MhcError: it is no module, is transformed already, or wrapped.
    """
    configs, left_out = _configs(n, connection, options)
    if isinstance(device, str):
        check_device(device)
    if tokens is not None and (isinstance(tokens, bool) or not isinstance(tokens, int) or tokens < 1):
        raise InvalidOptionError(f"tokens={tokens!r} is not an int of at least 1: write for example tokens=16384")
    reject_wrapped(check_untransformed(model))
    inputs = resolve_inputs(model, example_inputs, example_kwargs)
    if inputs is None:
        raise missing_inputs(model, "an estimate counts one step")
    with torch.inference_mode(False), torch.enable_grad(), training_mode(model, True):
        plans = _plans(model, inputs, configs)
        if not plans[0].sites:
            raise NothingToTransformError("there is no residual add that can be rewritten, so there is no cost")
        found = find_device(device) if isinstance(device, str) else device
        default = None if found.name == "cpu" else torch.bfloat16
        return _estimated(_Step(model, inputs, tokens, dtype or default), found, configs, plans, left_out)


def _configs(n: Sequence[int] | int, connection: Sequence[str] | str, options: Mapping[str, Any]) -> Any:
    """Every pair that there is, and a note for each that there is not."""
    numbers = (n,) if isinstance(n, int) else tuple(n)
    names = (connection,) if isinstance(connection, str) else tuple(connection)
    configs: list[Config] = []
    left_out: list[InvalidOptionError] = []
    for name in names:
        for number in numbers:
            try:
                configs.append(make_config(number, {**options, "connection": name}))
            except InvalidOptionError as error:
                left_out.append(error)
    if not configs:
        raise left_out[0] if left_out else InvalidOptionError("write at least one n and one connection")
    return configs, tuple(f"left out: {error}" for error in left_out)


def _plans(model: nn.Module, inputs: Inputs, configs: Sequence[Config]) -> list[Plan]:
    """One trace serves all, unless it takes several graphs."""
    traces = [trace_one(model, inputs, configs[0], "train", ("train",), dynamic=False)]
    captured = traces[0].captured
    if captured is not None:
        return [traces[0].plan, *(plan_of(captured, config) for config in configs[1:])]
    traces += [trace_one(model, inputs, config, "train", ("train",), dynamic=False) for config in configs[1:]]
    return [trace.plan for trace in traces]


def _estimated(
    step: _Step, device: Device, configs: Sequence[Config], plans: Sequence[Plan], notes: tuple[str, ...]
) -> Estimate:
    first = plans[0].sites[0]
    itemsize, name = _element(first, step.dtype)
    traced = Mixing(plans[0], configs[0], 1, itemsize).tokens(first)
    inputs, scale, scaled = _enlarged(step.inputs, (step.tokens or traced) / traced)
    counted = _count(step, inputs)
    plain = plain_step(counted, device, name)
    mixings = [Mixing(plan, config, scale, itemsize) for plan, config in zip(plans, configs, strict=True)]
    rows = tuple(row_of(mixing, device, plain) for mixing in mixings)
    notes = (*notes, *scaled, *_on(device, plans, plain.seconds.value))
    return Estimate(device, name, round(traced * scale), len(plans[0].sites), plain, rows, notes)


def _element(site: Site, dtype: torch.dtype | None) -> tuple[int, str]:
    kind = dtype or getattr(torch, site.dtype)
    return kind.itemsize, str(kind).removeprefix("torch.")


def _on(device: Device, plans: Sequence[Plan], seconds: float) -> Iterator[str]:
    if device.name not in ("cpu", "h100"):
        yield _UNTIMED.format(device.title)
    elif device.name == "h100":
        yield _UNTIMED.format("other n")
    if any(each.kind is StepKind.PLAIN for plan in plans for each in plan.steps):
        yield "what has no kernels of its own is counted with one kernel per formula"
    if seconds < _SHORT and device.name != "cpu":
        yield "a step this short is mostly launches: write tokens (--tokens 16384) for a batch that fills the device"
    yield "causal attention is counted half, other masks leave out nothing; the loss is not counted"


def _enlarged(inputs: Inputs, factor: float) -> tuple[Inputs, float, tuple[str, ...]]:
    """Inputs with another batch size, what it really is over that of the traced one, and a note if it was rounded."""
    tensors = [v for v in tree_flatten((inputs.args, inputs.kwargs))[0] if isinstance(v, Tensor) and v.dim()]
    if factor == 1 or not tensors:
        return inputs, 1.0, ()
    batch = tensors[0].shape[0]
    wanted = max(1, round(batch * factor))

    def enlarge(value: Any) -> Any:
        if not isinstance(value, Tensor) or not value.dim() or value.shape[0] != batch:
            return value
        return value[:1].expand(wanted, *value.shape[1:])

    args, kwargs = tree_map(enlarge, (inputs.args, inputs.kwargs))
    rounded = wanted != batch * factor
    notes = (f"tokens are rounded to a batch of {wanted}",) if rounded else ()
    return Inputs(args, kwargs), wanted / batch, notes


def _count(step: _Step, inputs: Inputs) -> Counted:
    try:
        return count_step(step.model, inputs.args, inputs.kwargs, step.dtype)
    except Exception as error:
        raise CaptureError(
            f"{type(step.model).__name__} cannot be counted, because its code does not run on tensors without values "
            f"({type(error).__name__}: {str(error).splitlines()[0] if str(error) else 'no message'}): "
            "write other example inputs, or options that keep it from asking for values"
        ) from error
