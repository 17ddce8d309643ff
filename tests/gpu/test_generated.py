"""What Inductor generates for CUDA from a transformed model: which kernels, and how many launches a site costs."""

from __future__ import annotations

import logging
import re
from collections import Counter
from collections.abc import Callable
from functools import cache
from typing import Any

import pytest
import torch
import torch.utils._triton
import triton
from triton.backends.compiler import GPUTarget
from triton.compiler import ASTSource

from mhc_compile.kernels.inductor import lowerings as inductor
from tests.gpu import models
from tests.gpu.fake_cuda import fake_cuda
from tests.gpu.kernel_source import load, sources
from tests.gpu.program import OURS, Launches, Program, Stage, generate, launches
from tests.tables import also

Make = Callable[..., models.Example]


def expected(depth: int = 1) -> tuple[dict[str, int], dict[str, int]]:
    """The launches of so many blocks, forward and backward: an entry, boundaries, a readout."""
    sites = models.SITES_PER_BLOCK * depth
    entry, boundaries = 1, sites - 1
    forward = {"gate_coefficients_kernel": entry, "boundary_coefficients_kernel": boundaries, "read_kernel": sites}
    backward = {
        "gate_logits_kernel": entry,
        "boundary_logits_kernel": boundaries,
        "gate_backward_kernel": entry,
        "gate_products_kernel": entry,
        "boundary_backward_kernel": boundaries,
        "boundary_products_kernel": boundaries,
        "leave_backward_kernel": 1,
        "add_shares_kernel": sites,
    }
    return {**forward, "leave_kernel": 1}, backward


def program(make: Make = models.transformer, *, dynamic: bool = False, width: int = 24, **sizes: Any) -> Program:
    return _generated(make, dynamic, width, tuple(sorted({"depth": 1, **sizes}.items())))


@cache
def _generated(make: Make, dynamic: bool, width: int, sizes: tuple[tuple[str, Any], ...]) -> Program:
    return generate(*make(width, **dict(sizes)), dynamic=dynamic)


def both(generated: Program) -> tuple[Launches, Launches]:
    return launches(generated.forward.source), launches(generated.backward.source)


def total(found: Launches) -> int:
    return sum(map(Counter.total, (found.ours, found.inductor, found.libraries)))


@pytest.mark.slow
@pytest.mark.parametrize("width", [24, *also(64, 8192)])  # others change sizes in the program, not its kernels
def test_every_step_is_a_hand_written_kernel(width: int) -> None:
    generated = program(width=width)
    forward, backward = both(generated)
    assert (forward.ours, backward.ours) == expected()
    for stage in (generated.forward, generated.backward):
        assert "torch.ops.mhc." not in stage.source.split("async_compile.wait")[1]


@pytest.mark.exhaustive  # the kernels of one block are in the test before
def test_an_interior_site_adds_two_launches_forward_and_four_backward_and_inductor_adds_none() -> None:
    """Of a site against a plain residual."""
    programs = [program(make, depth=depth) for make in (models.transformer, models.plain) for depth in (2, 1)]
    grown = [both(generated) for generated in programs]
    for stage, launched in ((0, 2), (1, 4)):
        assert grown[0][stage].ours.total() - grown[1][stage].ours.total() == launched * models.SITES_PER_BLOCK
        deep, shallow, plain_deep, plain_shallow = (total(found[stage]) for found in grown)
        more = (deep - shallow) - (plain_deep - plain_shallow)
        assert more <= launched * models.SITES_PER_BLOCK
    assert tuple(found.ours for found in grown[0]) == expected(depth=2)
    assert all(stage.overwritten == () for stage in (programs[0].forward, programs[0].backward))


@pytest.mark.slow
@pytest.mark.exhaustive  # another program to compile; `make gpu-proof` has it
def test_an_interior_site_of_single_pass_adds_one_launch_forward_and_three_backward() -> None:
    forward, backward = both(program(depth=1, connection="mhc-single-pass"))
    sites = models.SITES_PER_BLOCK
    names = ("single_gate_kernel", "single_boundary_kernel", "leave_kernel")
    assert forward.ours == dict(zip(names, (1, sites - 1, 1), strict=True))
    assert backward.ours == {
        "single_gate_backward_kernel": 1,
        "gate_products_kernel": 1,
        "single_boundary_backward_kernel": sites - 1,
        "boundary_products_kernel": sites - 1,
        "leave_backward_kernel": 1,
        "add_shares_kernel": sites,
    }


@pytest.mark.slow
@pytest.mark.exhaustive  # another program to compile; `make gpu-proof` has it
def test_hyper_connections_launch_what_mhc_does() -> None:
    forward, backward = both(program(depth=1, connection="hc"))
    assert (forward.ours, backward.ours) == expected()


@pytest.mark.exhaustive  # four streams are in the test before
@pytest.mark.parametrize("n", [2, 8])
def test_inductor_knows_which_tensors_the_kernels_write(n: int) -> None:
    generated = program(n=n)
    assert generated.forward.overwritten == generated.backward.overwritten == ()


@pytest.mark.exhaustive  # with open sizes Inductor compiles on the CPU in `test_recomputed.py` and others
def test_another_batch_size_needs_no_other_program() -> None:
    generated = program(dynamic=True)
    forward, backward = both(generated)
    assert (forward.ours, backward.ours) == expected()
    assert "math.floor" not in generated.forward.source  # whole numbers: `(12 * batch + 15) // 16` programs
    assert re.search(
        r"boundary_coefficients_kernel_\d\.run\(.*, \(15 \+ 12\*s\d+\) // 16, 1, 1, stream", generated.forward.source
    )


@pytest.mark.slow
def test_an_uncovered_dtype_runs_as_operators_and_the_reason_is_logged_once(caplog: pytest.LogCaptureFixture) -> None:
    inductor._log_once.cache_clear()
    with caplog.at_level(logging.INFO, logger="mhc_compile"):
        generated = generate(*models.transformer(24, depth=1, dtype=torch.float64))
    forward, backward = both(generated)
    assert not forward.ours and not backward.ours
    assert "torch.ops.mhc.boundary.default(" in generated.forward.source
    reasons = Counter(r.message for r in caplog.records if "mhc::boundary is not lowered" in r.message)
    reason = "the Triton kernels cover fp32, bf16 and fp16, not torch.float64"
    assert reasons == {f"mhc::boundary is not lowered and runs as an operator: {reason}": 1}


def test_the_fake_device_is_gone_afterwards() -> None:
    before = torch.cuda.is_available(), torch.utils._triton.has_triton()
    with fake_cuda((8, 0)):
        assert torch.utils._triton.has_triton()
        assert torch.cuda.get_device_capability() == (8, 0)
    assert (torch.cuda.is_available(), torch.utils._triton.has_triton()) == before


@pytest.mark.exhaustive  # one of them compiles in `compiled/test_resources.py`: here it is how Inductor calls them
@pytest.mark.parametrize("stage", ["forward", "backward"])
@pytest.mark.parametrize("dynamic", [False, True])
def test_the_kernels_in_the_program_compile_for_an_h100(stage: str, dynamic: bool) -> None:
    generated: Stage = getattr(program(dynamic=dynamic), stage)
    one_of_each = dict(sources(generated.source).values())  # that of an entry or of a boundary further in
    for function in OURS & one_of_each.keys():
        kernel, meta, _ = load(function, one_of_each[function])
        source = ASTSource(kernel, meta["signature"], meta["constants"], meta["configs"][0])
        compiled = triton.compile(source, target=GPUTarget("cuda", 90, 32), options=meta["backend_options"])
        assert compiled.asm["cubin"] and compiled.metadata.num_warps == meta["backend_options"]["num_warps"]
