"""The Triton kernels of the fused steps against the formulas in fp64, every result by name.

In the interpreter (`TRITON_INTERPRET=1`); without it on a GPU.
"""

from __future__ import annotations

import os
from typing import Any

import pytest
import torch
from torch import Tensor

from mhc_compile.kernels.formulas import packed
from mhc_compile.kernels.schedules.schedule import Spec
from mhc_compile.kernels.triton import launch as triton_launch
from mhc_compile.kernels.triton import schedules as triton_schedules
from mhc_compile.kernels.triton import tiles as triton_tiles
from tests.kernels.step_calls import (
    GATED,
    RESULTS,
    SINGLE_STEPS,
    STEPS,
    all_arguments,
    as_tuple,
    assert_next_site_reads_what_is_stored,
    assert_norms_far_from_zero,
    assert_right,
    backward_arguments,
    exactly,
    forward_arguments,
    run,
)
from tests.kernels.step_inputs import LAYOUTS, step_inputs
from tests.tables import also

TOLERANCES = {torch.float32: 2e-5, torch.bfloat16: 1.5e-2, torch.float16: 2e-3}
LAST, FIRST, TINY = LAYOUTS["last"], LAYOUTS["first"], LAYOUTS["tiny"]
WIDE = ((3, 130), 1)
DEVICE = "cpu" if os.environ.get("TRITON_INTERPRET") == "1" else "cuda"


class _Kernels:
    """`triton_launch` on the device; tensors come from the CPU and go back there."""

    def __getattr__(self, name: str) -> Any:
        function = getattr(triton_launch, name)
        return lambda *arguments: tuple(t.cpu() for t in as_tuple(function(*map(on_device, arguments))))


class _Poisoned:
    """The same steps, where every buffer that they allocate holds NaN first."""

    def __getattr__(self, name: str) -> Any:
        def poisoned(*args: Any, **kwargs: Any) -> Tensor:
            return torch.empty(*args, **kwargs).fill_(float("nan"))

        return lambda *arguments: tuple(scheduled(name, arguments, empty=poisoned).values())


def on_device(value: Any) -> Any:
    return value.to(DEVICE) if isinstance(value, Tensor) else value


KERNELS = _Kernels()


def right(name: str, arguments: tuple[Any, ...], dtype: torch.dtype = torch.float32) -> None:
    assert_right(KERNELS, name, arguments, TOLERANCES[dtype])


@pytest.mark.parametrize("equal", [False, True], ids=["streams", "entry"])
def test_norms_of_single_streams_hold_far_from_zero(equal: bool) -> None:
    assert_norms_far_from_zero(KERNELS, equal=equal)


@pytest.mark.parametrize(
    ("equal", "layout"),  # each axis, and each kind of step, once; the other pairs of them in all entries
    [(False, LAST), (False, TINY), (True, FIRST), *also((False, FIRST), (True, LAST), (True, TINY))],
    ids=["streams-last", "streams-tiny", "entry-first", "streams-first", "entry-last", "entry-tiny"],
)
@pytest.mark.parametrize("n", [4, *also(2, 3, 8)])
def test_every_result_is_that_of_the_formulas(n: int, equal: bool, layout: Any) -> None:
    """Written whole, too."""
    for name, arguments in all_arguments(n, layout, equal=equal):
        assert_right(_Poisoned(), name, arguments, TOLERANCES[torch.float32])


@pytest.mark.parametrize(
    ("connection", "n", "equal"),
    [
        *((name, 4, False) for name in ("hc", "identity:magnitude=1.5,eps=0.01")),
        *also(*((name, 4, False) for name in ("mhc-lite", "kronecker", "circulant"))),
        *also(("mhc-lite", 3, True), ("kronecker", 8, True), ("circulant", 3, True), ("identity", 8, True)),
        *also(("hc", 3, True), ("hc", 3, False), ("hc", 8, True)),
    ],
)
def test_so_is_every_result_for_other_connections(connection: str, n: int, equal: bool) -> None:
    for name, arguments in all_arguments(n, TINY, steps=GATED, equal=equal, connection=connection):
        assert_right(_Poisoned(), name, arguments, TOLERANCES[torch.float32])


@pytest.mark.exhaustive  # of bf16, steps that have no branch and other layouts: the next tests have the rest
@pytest.mark.parametrize("layout", [FIRST, LAST], ids=["first", "last"])
@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float16])
def test_every_dtype_keeps_its_accuracy(dtype: torch.dtype, layout: Any) -> None:
    for name, arguments in all_arguments(4, layout, dtype=dtype):
        right(name, arguments, dtype)


def test_the_next_site_reads_the_streams_as_they_are_stored() -> None:
    ulps = 1 if DEVICE == "cpu" else 0.5  # the interpreter does not round to the nearest
    arguments = forward_arguments("boundary", 4, TINY, dtype=torch.bfloat16)
    assert_next_site_reads_what_is_stored(KERNELS, arguments, ulps=ulps)


@pytest.mark.parametrize(
    ("streams", "branch"),
    [
        *((torch.float32, torch.bfloat16), (torch.bfloat16, torch.bfloat16)),
        *also((torch.float16, torch.float32), (torch.float16, torch.bfloat16)),
    ],
)
def test_streams_and_branch_may_differ_in_dtype(streams: torch.dtype, branch: torch.dtype) -> None:
    for step in ("write", "boundary", "leave", "single_boundary"):
        X, y, *rest = forward_arguments(step, 4, TINY, dtype=streams)
        arguments = (X, y.to(branch), *rest)
        right(step, arguments, torch.bfloat16)
        right(f"{step}_backward", backward_arguments(step, arguments), torch.bfloat16)


@pytest.mark.exhaustive  # the default one runs in all the others; a GPU chooses among them
@pytest.mark.parametrize("n", [3, 8])
def test_every_configuration_of_tiles_is_right(n: int) -> None:
    for name, arguments in all_arguments(n, WIDE):
        expected = exactly(name, arguments)
        for tiles in configurations(name, arguments):
            found = scheduled(name, arguments, tiles=tiles)
            for key, value in found.items():
                scale = expected[key].abs().max()
                assert (value.double() - expected[key]).abs().max() <= 2e-5 * scale, (name, key, tiles)


def scheduled(name: str, arguments: tuple[Any, ...], empty: Any = torch.empty, tiles: Any = None) -> dict[str, Tensor]:
    """A step through its schedule, with chosen tiles and allocator."""
    tensors, constants = named(name, tuple(map(on_device, arguments)))
    schedule = getattr(triton_schedules, name)(specs(tensors), *constants, tiles)
    results = triton_launch.run_schedule(schedule, tensors, empty)
    return {key: value.cpu() for key, value in zip(RESULTS[name], results, strict=True)}


def configurations(name: str, arguments: tuple[Any, ...]) -> tuple[triton_tiles.Tiles, ...]:
    tensors, (n, axis, *_) = named(name, arguments)
    return triton_tiles.configurations(name, specs(tensors), n, axis)


def specs(tensors: dict[str, Tensor]) -> dict[str, Spec]:
    return {name: Spec(tuple(t.shape), t.dtype) for name, t in tensors.items()}


def named(name: str, arguments: tuple[Any, ...]) -> tuple[dict[str, Tensor], list[Any]]:
    """Tensors by the parameter names of `packed.py`, and the constants behind them."""
    code = getattr(packed, name).__code__
    parameters = code.co_varnames[: code.co_argcount]
    tensors = {p: a.contiguous() for p, a in zip(parameters, arguments, strict=True) if isinstance(a, Tensor)}
    return tensors, [a for a in arguments if not isinstance(a, Tensor)]


@pytest.mark.exhaustive  # of the interpreter two runs could not differ; on a GPU all entries run
def test_two_runs_agree_to_the_last_bit() -> None:
    for name, arguments in all_arguments(4, LAST):
        first, second = run(KERNELS, name, arguments), run(KERNELS, name, arguments)
        assert all(torch.equal(first[key], second[key]) for key in first), name


def test_logits_of_ten_thousand_are_finite_and_right() -> None:
    for step in GATED:
        arguments = forward_arguments(step, 4, TINY)
        bias = arguments[-4]
        bias.copy_(torch.where(torch.arange(bias.numel()) % 2 == 0, 1e4, -1e4))
        found = run(KERNELS, step, arguments)
        assert all(t.isfinite().all() for t in found.values())
        rows = found["mix"][:, 4:].unflatten(1, (4, 4)).sum(-1)
        torch.testing.assert_close(rows, torch.ones_like(rows), rtol=0, atol=1e-6)
        grads = run(KERNELS, f"{step}_backward", backward_arguments(step, arguments))
        assert all(t.isfinite().all() for t in grads.values())


@pytest.mark.parametrize("value", [float("nan"), *also(float("inf"))])
def test_a_broken_token_breaks_no_other_token(value: float) -> None:
    for step in (*STEPS, *SINGLE_STEPS):
        arguments = forward_arguments(step, 4, ((20, 33), 1))
        clean = run(KERNELS, step, arguments)
        arguments[0][:, 7] = value
        broken = run(KERNELS, step, arguments)
        others = torch.tensor([i for i in range(20) if i != 7])
        for key, found in broken.items():
            dim = 1 if key == "following" else 0
            assert torch.equal(found.index_select(dim, others), clean[key].index_select(dim, others)), (step, key)
            assert not found.select(dim, 7).isfinite().all(), (step, key)


def test_an_empty_batch_has_empty_results_and_no_parameter_gradient() -> None:
    for name, arguments in all_arguments(4, ((0, 16), 1)):
        expected = exactly(name, arguments)
        for key, found in run(KERNELS, name, arguments).items():
            assert found.shape == expected[key].shape
            assert not found.any(), (name, key)


@pytest.mark.exhaustive  # `launch.py` makes them contiguous, as that of the CPU does
def test_strides_do_not_matter() -> None:
    for name, arguments in all_arguments(4, ((12, 20), 1)):
        strided = tuple(
            on_device(a).repeat_interleave(2, -1)[..., ::2] if isinstance(a, Tensor) else a for a in arguments
        )
        expected = run(KERNELS, name, arguments)
        found = run(KERNELS, name, strided)
        assert all(torch.equal(found[key], expected[key]) for key in expected), name


HALF = torch.bfloat16


@pytest.mark.parametrize(
    ("equal", "layout", "dtype"),
    [
        *((True, LAST, torch.float32), (False, FIRST, HALF)),  # each axis, kind of streams and dtype once
        *also((False, FIRST, torch.float32), (False, LAST, HALF), (True, FIRST, HALF)),
        *also((False, LAST, torch.float32), (True, FIRST, torch.float32), (True, LAST, HALF)),
    ],
)
def test_restored_streams_are_those_that_the_writes_made(equal: bool, layout: Any, dtype: torch.dtype) -> None:
    data = [step_inputs(4, layout, equal=equal, dtype=dtype, seed=k) for k in range(6)]  # in two passes
    X, past = data[0].X, [t for d in data for t in (d.y, d.mix)]
    expected = X
    for y, mix in zip(past[::2], past[1::2], strict=True):
        (expected,) = KERNELS.write(expected, y, mix, 4, data[0].axis)
    found = triton_launch.restore(on_device(X), list(map(on_device, past)), 4, data[0].axis).cpu()
    torch.testing.assert_close(found.double(), expected.double(), rtol=TOLERANCES[dtype], atol=TOLERANCES[dtype])
