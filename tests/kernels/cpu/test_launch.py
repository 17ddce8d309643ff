"""The C++ kernels of the fused steps against the plain formulas in fp64: every result by name."""

from __future__ import annotations

import warnings
from collections.abc import Callable, Iterator
from contextlib import contextmanager

import pytest
import torch
from torch import Tensor

from mhc_compile.kernels.cpu import kernel as cpu_kernel
from mhc_compile.kernels.cpu import launch as cpu_launch
from mhc_compile.kernels.formulas import packed
from tests.kernels.step_calls import (
    GATED,
    SINGLE_STEPS,
    STEPS,
    all_arguments,
    assert_norms_far_from_zero,
    assert_right,
    backward_arguments,
    exactly,
    forward_arguments,
    run,
)
from tests.kernels.step_inputs import LAYOUTS
from tests.tables import also

TOLERANCES = {torch.float64: 1e-11, torch.float32: 2e-5, torch.bfloat16: 1.5e-2, torch.float16: 2e-3}
"""Relative to the largest entry; maths.md allows 5e-4 for fp32 and 1.5e-2 for bf16."""


@contextmanager
def poisoned_memory(monkeypatch: pytest.MonkeyPatch) -> Iterator[None]:
    """Every buffer that a launch allocates holds NaN first."""
    empty: Callable[..., Tensor] = torch.empty
    with monkeypatch.context() as patch:
        patch.setattr(cpu_launch.torch, "empty", lambda *a, **k: empty(*a, **k).fill_(float("nan")))
        yield


@pytest.fixture(autouse=True)
def no_silent_fallback() -> Iterator[None]:
    assert cpu_kernel.compiler() is not None
    with warnings.catch_warnings():
        warnings.simplefilter("error", UserWarning)
        yield


@pytest.mark.parametrize("layout", LAYOUTS)
@pytest.mark.parametrize("equal", [False, True], ids=["streams", "entry"])
@pytest.mark.parametrize("n", [4, *also(2, 3, 8)])
def test_every_result_is_that_of_the_formulas(n: int, equal: bool, layout: str) -> None:
    for name, arguments in all_arguments(n, layout, steps=STEPS, equal=equal):
        assert_right(cpu_launch, name, arguments, TOLERANCES[torch.float32])


@pytest.mark.parametrize("n", [2, 3, *also(8)])  # a constant of templates; `test_packed.py` has 8 in the formulas
def test_so_is_every_result_for_other_numbers_of_streams(n: int) -> None:
    """In fp64, as in the tests of the passes: each number and dtype is a C++ kernel that is compiled."""
    for name, arguments in all_arguments(n, "tiny", steps=STEPS, dtype=torch.float64):
        assert_right(cpu_launch, name, arguments, TOLERANCES[torch.float64])


@pytest.mark.parametrize(
    ("connection", "n"),
    [
        *(("identity:magnitude=1.5,eps=0.01", 4), ("kronecker", 4), ("hc", 4)),
        *also(
            ("hc", 3),
            ("hc", 8),
            ("circulant", 4),
            ("mhc-lite", 4),
            ("mhc-lite", 3),
            ("kronecker", 2),
            ("kronecker", 8),
            ("circulant", 3),
            ("circulant", 8),
            ("identity", 8),
        ),
    ],
)
def test_so_is_every_result_for_other_connections(connection: str, n: int) -> None:
    """Both kinds of streams at once: what differs between connections is what a token makes of its logits."""
    for dtype, equal in ((torch.float32, False), *(((torch.float64, True),) if n != 4 else ())):
        for name, arguments in all_arguments(
            n, "tiny", steps=("gate", "boundary"), dtype=dtype, equal=equal, connection=connection
        ):
            assert_right(cpu_launch, name, arguments, TOLERANCES[dtype])


@pytest.mark.parametrize("equal", [False, True], ids=["streams", "entry"])
def test_norms_of_single_streams_hold_far_from_zero(equal: bool) -> None:
    assert_norms_far_from_zero(cpu_launch, equal=equal)


@pytest.mark.parametrize("layout", ["last", "first"])
@pytest.mark.parametrize("dtype", [torch.bfloat16, *also(torch.float64, torch.float16)])
def test_every_dtype_keeps_its_accuracy(dtype: torch.dtype, layout: str) -> None:
    for name, arguments in all_arguments(4, layout, steps=STEPS, dtype=dtype):
        assert_right(cpu_launch, name, arguments, TOLERANCES[dtype])


@pytest.mark.parametrize(
    ("n", "layout", "equal", "dtype"),
    [
        (4, "last", True, torch.float32),
        *also((4, "first", False, torch.float32)),
        *also(
            (4, "first", True, torch.bfloat16), (4, "last", False, torch.bfloat16), (8, "last", False, torch.float32)
        ),
        *also((2, "tiny", False, torch.float64), (3, "tiny", True, torch.float64)),
    ],
)
def test_so_is_every_result_of_single_pass(n: int, layout: str, equal: bool, dtype: torch.dtype) -> None:
    for name, arguments in all_arguments(n, layout, steps=SINGLE_STEPS, equal=equal, dtype=dtype):
        assert_right(cpu_launch, name, arguments, TOLERANCES[dtype])


@pytest.mark.parametrize("shape", [(63, 1000), (1000, 65), (17, 8), (1, 129), (4, 300)], ids=str)
def test_sizes_that_no_tile_divides(shape: tuple[int, int]) -> None:
    for name, arguments in all_arguments(4, (shape, 1)):
        assert_right(cpu_launch, name, arguments, TOLERANCES[torch.float32])


@pytest.mark.usefixtures("as_users_have_them")
@pytest.mark.parametrize("step", GATED)
def test_a_token_alone_has_the_bits_it_has_among_others(step: str) -> None:
    """Few tokens read phi as it is given, many a packed copy: decoding must say what the whole sequence says."""
    X, *rest = forward_arguments(step, 4, ((6, 300), 1))
    among = run(cpu_launch, step, (X, *rest))
    rows = [r[5:] if isinstance(r, Tensor) and r.shape[0] == 6 else r for r in rest]  # the branch, mix, read weights
    for key, alone in run(cpu_launch, step, (X[:, 5:], *rows)).items():
        assert torch.equal(alone, among[key][:, 5:] if key == "following" else among[key][5:]), key


@pytest.mark.parametrize("branch", [torch.float32, torch.bfloat16])
@pytest.mark.parametrize("streams", [torch.float32, *also(torch.float16)])
def test_streams_and_branch_may_differ_in_dtype(streams: torch.dtype, branch: torch.dtype) -> None:
    for step in ("write", "boundary", "leave", "single_boundary"):
        X, y, *rest = forward_arguments(step, 4, "last", dtype=streams)
        arguments = (X, y.to(branch), *rest)
        assert_right(cpu_launch, step, arguments, TOLERANCES[torch.bfloat16])
        assert_right(cpu_launch, f"{step}_backward", backward_arguments(step, arguments), TOLERANCES[torch.bfloat16])


def test_every_result_is_written_whole(monkeypatch: pytest.MonkeyPatch) -> None:
    with poisoned_memory(monkeypatch):
        for layout in LAYOUTS:
            for name, arguments in all_arguments(4, layout):
                assert_right(cpu_launch, name, arguments, TOLERANCES[torch.float32])


@pytest.mark.usefixtures("as_users_have_them")
@pytest.mark.parametrize("threads", [1, 2, 3])
def test_two_runs_agree_to_the_last_bit_with_any_number_of_threads(threads: int) -> None:
    before = torch.get_num_threads()
    torch.set_num_threads(threads)
    try:
        for name, arguments in all_arguments(4, ((100, 33), 1)):
            assert_right(cpu_launch, name, arguments, TOLERANCES[torch.float32])
            first, second = run(cpu_launch, name, arguments), run(cpu_launch, name, arguments)
            assert all(torch.equal(first[key], second[key]) for key in first), name
    finally:
        torch.set_num_threads(before)


def test_logits_of_ten_thousand_are_finite_and_right() -> None:
    for step in GATED:
        arguments = forward_arguments(step, 4, "last")
        bias = arguments[-4]
        bias.copy_(torch.where(torch.arange(bias.numel()) % 2 == 0, 1e4, -1e4))
        found = run(cpu_launch, step, arguments)
        assert all(t.isfinite().all() for t in found.values())
        rows = found["mix"][:, 4:].unflatten(1, (4, 4)).sum(-1)
        torch.testing.assert_close(rows, torch.ones_like(rows), rtol=0, atol=1e-6)
        grads = run(cpu_launch, f"{step}_backward", backward_arguments(step, arguments))
        assert all(t.isfinite().all() for t in grads.values())


@pytest.mark.parametrize("value", [float("nan"), float("inf")])
def test_a_broken_token_breaks_no_other_token(value: float) -> None:
    for step in (*STEPS, *SINGLE_STEPS):
        arguments = forward_arguments(step, 4, ((40, 33), 1))
        clean = run(cpu_launch, step, arguments)
        arguments[0][:, 7] = value
        broken = run(cpu_launch, step, arguments)
        for key, found in broken.items():
            tokens = 1 if key == "following" else 0
            keep = [i for i in range(40) if i != 7]
            index = torch.tensor(keep)
            assert torch.equal(found.index_select(tokens, index), clean[key].index_select(tokens, index)), (step, key)
            assert not found.select(tokens, 7).isfinite().all(), (step, key)


def test_an_empty_batch_has_empty_results_and_no_parameter_gradient() -> None:
    for name, arguments in all_arguments(4, ((0, 16), 1)):
        for key, found in run(cpu_launch, name, arguments).items():
            assert found.shape == exactly(name, arguments)[key].shape
            assert not found.any(), (name, key)


def test_strides_do_not_matter() -> None:
    for name, arguments in all_arguments(4, ((12, 20), 1)):
        strided = [a.repeat_interleave(2, -1)[..., ::2] if isinstance(a, Tensor) else a for a in arguments]
        assert not any(a.is_contiguous() for a in strided if isinstance(a, Tensor) and a.numel() > 1)
        expected = run(cpu_launch, name, arguments)
        assert all(torch.equal(found, expected[key]) for key, found in run(cpu_launch, name, tuple(strided)).items()), (
            name
        )


def test_without_a_compiler_the_formulas_run_and_a_warning_says_so(monkeypatch: pytest.MonkeyPatch) -> None:
    def missing(kernel: object) -> None:
        raise FileNotFoundError("no C++ compiler: install g++ or clang++, or set CXX")

    monkeypatch.setattr(cpu_launch, "compiled", missing)
    cpu_launch._usable.cache_clear()
    try:
        arguments = forward_arguments("leave", 3, "tiny")
        with pytest.warns(UserWarning, match=r"plain PyTorch, several times slower: no C\+\+ compiler"):
            found = cpu_launch.leave(*arguments)
        torch.testing.assert_close(found, packed.leave(*arguments))
    finally:
        cpu_launch._usable.cache_clear()


def test_all_lengths_share_one_source(monkeypatch: pytest.MonkeyPatch) -> None:
    kernels = []
    compiled = cpu_launch.compiled
    monkeypatch.setattr(cpu_launch, "compiled", lambda kernel: (kernels.append(kernel), compiled(kernel))[1])
    for tokens in (5, 6, 70):
        run(cpu_launch, "write", forward_arguments("write", 4, ((tokens, 16), 1)))
    assert len(kernels) >= 3
    assert len({id(kernel.source) for kernel in kernels}) == 1
    assert cpu_launch._schedule.cache_info().maxsize is not None
