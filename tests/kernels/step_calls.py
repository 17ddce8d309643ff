"""The functions of `packed.py` called by name, and compared with themselves in fp64: for every implementation."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from typing import Any

import torch
from torch import Tensor

from mhc_compile.kernels.formulas import packed
from tests.kernels.step_inputs import step_inputs

STEPS = ("gate", "write", "boundary", "leave")
SINGLE_STEPS = ("single_gate", "single_boundary")
GATED = ("gate", "boundary", *SINGLE_STEPS)
RESULTS = {
    "gate": ("u", "mix", "stat"),
    "write": ("following",),
    "boundary": ("following", "u", "mix", "stat"),
    "leave": ("out",),
    "gate_backward": ("X", "phi", "alpha", "bias"),
    "write_backward": ("X", "y", "mix"),
    "boundary_backward": ("X", "y", "mix", "phi", "alpha", "bias"),
    "leave_backward": ("X", "y", "mix"),
    "single_gate": ("pre", "mix", "stat"),
    "single_boundary": ("following", "u", "pre", "mix", "stat"),
    "single_gate_backward": ("X", "phi", "alpha", "bias"),
    "single_boundary_backward": ("X", "y", "mix", "pre", "phi", "alpha", "bias"),
}


def forward_arguments(step: str, n: int, layout: Any, **options: Any) -> tuple[Any, ...]:
    data = step_inputs(n, layout, **options)
    streams, params, rest = (data.X, data.y, data.mix), data.params, (n, data.axis)
    gated = (*rest, options.get("connection", "mhc"))
    return {
        "gate": (data.X, *params, *gated),
        "write": (*streams, *rest),
        "boundary": (*streams, *params, *gated),
        "leave": (*streams, *rest, 1 / n),
        "single_gate": (data.X, *params, *gated),
        "single_boundary": (*streams, data.pre, *params, *gated),
    }[step]


def backward_arguments(step: str, arguments: tuple[Any, ...], seed: int = 1) -> tuple[Any, ...]:
    """Random incoming gradients, the inputs, and the statistics that the forward kept."""
    generator = torch.Generator().manual_seed(seed)
    outputs = as_tuple(getattr(packed, step)(*arguments))
    stat = (outputs[-1],) if step in GATED else ()
    outputs = outputs[: len(outputs) - len(stat)]
    grads = [torch.randn(t.shape, generator=generator, dtype=torch.float64).to(t.dtype) for t in outputs]
    tensors = [a for a in arguments if isinstance(a, Tensor)]
    return (*grads, *tensors, *stat, *arguments[len(tensors) :])


def all_arguments(
    n: int, layout: Any, *, steps: Sequence[str] = (*STEPS, *SINGLE_STEPS), **options: Any
) -> Iterator[tuple[str, tuple[Any, ...]]]:
    """Each of the functions with arguments for it."""
    for step in steps:
        arguments = forward_arguments(step, n, layout, **options)
        yield step, arguments
        yield f"{step}_backward", backward_arguments(step, arguments)


def as_tuple(results: Any) -> tuple[Tensor, ...]:
    return results if isinstance(results, tuple) else (results,)


def run(implementation: Any, name: str, arguments: tuple[Any, ...]) -> dict[str, Tensor]:
    """The results by name; `implementation` is a module with the functions of `packed.py`."""
    return dict(zip(RESULTS[name], as_tuple(getattr(implementation, name)(*arguments)), strict=True))


def exactly(name: str, arguments: tuple[Any, ...]) -> dict[str, Tensor]:
    """The results in fp64."""
    return run(packed, name, tuple(a.double() if isinstance(a, Tensor) else a for a in arguments))


def assert_right(implementation: Any, name: str, arguments: tuple[Any, ...], tolerance: float) -> None:
    """Every result is within `tolerance` of fp64, relative to its largest entry."""
    expected = exactly(name, arguments)
    for key, found in run(implementation, name, arguments).items():
        error = (found.double() - expected[key]).abs().max() / expected[key].abs().max().clamp_min(1e-30)
        assert error <= tolerance, f"{name}: {key} is off by {error:.1e}"


SLACK = 1e-5  # sums in fp32, of terms that cancel


def assert_rounded_once(found: Mapping[str, Tensor], expected: Mapping[str, Tensor], *, ulps: float = 0.5) -> None:
    """Every result in half precision is the exact one, rounded once: which no tolerance in per cent tells.

    To the nearest, that is by half a unit in the last place.
    """
    for name, value in found.items():
        exact = expected[name]
        rounding = ulps * torch.finfo(value.dtype).eps if value.dtype.itemsize < 4 else 0.0
        bound = rounding * exact.abs() + SLACK * exact.abs().max()
        error = (value.double() - exact).abs()
        assert bool((error <= bound).all()), f"{name}: {float((error / bound).max()):.1f} times one rounding"


def assert_next_site_reads_what_is_stored(
    implementation: Any, arguments: tuple[Any, ...], *, ulps: float = 0.5
) -> None:
    """A boundary in half precision gates the streams that it has rounded, as whoever reads them later will."""
    X, y, mix, *params, n, axis, connection = arguments
    found = run(implementation, "boundary", arguments)
    following = found.pop("following")
    assert_rounded_once({"following": following}, exactly("write", (X, y, mix, n, axis)), ulps=ulps)
    assert_rounded_once(found, exactly("gate", (following, *params, n, axis, connection)), ulps=ulps)


def assert_norms_far_from_zero(implementation: Any, *, equal: bool) -> None:
    """Scale and mean of streams whose mean is a thousand times what they vary, kept in the last 2n of `stat`."""
    n = 4
    for name in ("gate", "boundary"):
        X, *rest = forward_arguments(name, n, ((5, 130), 1), equal=equal, connection="hc")
        arguments = (100 + 0.1 * X, *rest)
        found = run(implementation, name, arguments)["stat"][:, -2 * n :].double()
        torch.testing.assert_close(found, exactly(name, arguments)["stat"][:, -2 * n :], rtol=1e-4, atol=0)
