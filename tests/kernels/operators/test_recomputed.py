"""Steps that restore their streams in the backward: the bits of the steps that keep them, and nothing kept twice."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import pytest
import torch
from torch import Tensor

from mhc_compile.errors import KernelInputError
from mhc_compile.kernels.cpu import launch as cpu_launch
from mhc_compile.kernels.formulas import packed
from mhc_compile.kernels.operators import ops, recomputed
from mhc_compile.kernels.schedules.restoring import MAX_WRITES
from tests.kernels.step_inputs import step_inputs
from tests.tables import also


@dataclass(frozen=True)
class Chain:
    """Sites over random branches: boundaries, a write, a leave; every step but the first may restore its streams."""

    n: int
    axis: int
    X: Tensor
    sites: tuple[tuple[Tensor, ...], ...]  # y, mix, phi, alpha, bias

    @classmethod
    def of(cls, n: int, layout: Any, dtype: torch.dtype, *, equal: bool = False, sites: int = 4) -> Chain:
        data = [step_inputs(n, layout, equal=equal, dtype=dtype, seed=k) for k in range(sites)]
        leaves = tuple(tuple(t.requires_grad_() for t in (d.y, d.mix, *d.params)) for d in data)
        return cls(n, data[0].axis, data[0].X.requires_grad_(), leaves)

    @property
    def leaves(self) -> list[Tensor]:
        return [self.X, *(t for site in self.sites for t in site)]

    def __call__(self, recompute: bool) -> list[Tensor]:
        """Every result with a gradient."""
        constants: dict[str, Any] = {"n": self.n, "axis": self.axis}
        X, past, results = self.X, [], []
        for k, (y, mix, *params) in enumerate(self.sites):
            kept = (self.X, *past) if recompute and past else ()
            if k == len(self.sites) - 1:
                return [*results, recomputed.leave(X, y, mix, kept, **constants, scale=1 / self.n)]
            if k == len(self.sites) - 2:
                X = recomputed.write(X, y, mix, kept, **constants)
            else:
                X, u, following, _ = recomputed.boundary(X, y, mix, params, kept, **constants)
                results += [u, following]
            past += [y, mix]
        raise AssertionError

    def gradients(self, recompute: bool, *, twice: bool = False) -> Sequence[Tensor | None]:
        loss = sum(t.double().square().sum() for t in self(recompute))
        if twice:
            first = torch.autograd.grad(loss, self.leaves, create_graph=True, allow_unused=True)
            loss = sum(t.double().square().sum() for t in first if t is not None)
        return torch.autograd.grad(loss, self.leaves, allow_unused=True)


def equal(found: Sequence[Tensor | None], expected: Sequence[Tensor | None], tolerance: float = 0.0) -> None:
    for i, (ours, theirs) in enumerate(zip(found, expected, strict=True)):
        assert (ours is None) == (theirs is None), i
        if ours is not None and theirs is not None:
            assert (ours - theirs).abs().max() <= tolerance * theirs.abs().max(), i


@pytest.mark.usefixtures("as_users_have_them")
# In bf16 from an entry no other test needs the kernels.
@pytest.mark.parametrize(
    ("entry", "dtype"),
    [
        *((False, torch.float32), (False, torch.bfloat16), (True, torch.float32)),
        *also((True, torch.bfloat16), (False, torch.float64), (True, torch.float64)),
    ],
)
@pytest.mark.parametrize("layout", ["last", *also("first")])  # the bits of the streams are compared in both below
@pytest.mark.parametrize("n", [1, 4, *also(2, 8)])
def test_gradients_have_the_same_bits(n: int, layout: str, entry: bool, dtype: torch.dtype) -> None:
    chain = Chain.of(n, layout, dtype, equal=entry)
    equal(chain.gradients(True), chain.gradients(False))


@pytest.mark.parametrize("entry", [False, True], ids=["streams", "entry"])
def test_second_derivatives_agree(entry: bool) -> None:
    chain = Chain.of(3, "tiny", torch.float64, equal=entry)
    equal(chain.gradients(True, twice=True), chain.gradients(False, twice=True), 1e-13)


def test_the_streams_of_a_group_are_not_kept() -> None:
    chain = Chain.of(4, "last", torch.float32, sites=6)
    kept: set[int] = set()
    with torch.autograd.graph.saved_tensors_hooks(lambda t: (kept.add(t.data_ptr()), t)[1], lambda t: t):
        results = chain(True)
    others = kept - {t.data_ptr() for t in chain.leaves}
    assert len(others) == 4, "only the statistics of four boundaries"
    assert results and chain.X.data_ptr() in kept


WRITES = [1, 3, MAX_WRITES, MAX_WRITES + 3]


@pytest.mark.usefixtures("as_users_have_them")
# A kernel for each number in each layout, from streams or from an entry.
@pytest.mark.parametrize(
    ("entry", "layout", "writes"),
    [
        *((False, "last", writes) for writes in WRITES),
        *((True, "first", writes) for writes in WRITES[1::2]),
        (True, "tiny", 3),
        *also(*((False, layout, writes) for layout in ("first", "tiny") for writes in WRITES)),
        *also((True, "first", 1), (True, "first", MAX_WRITES), *((True, "last", writes) for writes in WRITES)),
    ],
)
def test_restored_streams_have_the_bits_of_the_writes(entry: bool, layout: str, writes: int) -> None:
    X, past, n, axis = history(4, layout, writes, entry)
    expected = X
    for y, mix in zip(past[::2], past[1::2], strict=True):
        expected = cpu_launch.write(expected, y, mix, n, axis)
    assert torch.equal(cpu_launch.restore(X, past, n, axis), expected)
    torch.testing.assert_close(packed.restore(X, past, n, axis), expected)


def history(n: int, layout: str, writes: int, entry: bool = False) -> tuple[Tensor, list[Tensor], int, int]:
    data = [step_inputs(n, layout, equal=entry, seed=k) for k in range(writes)]
    return data[0].X, [t for d in data for t in (d.y, d.mix)], n, data[0].axis


def test_branches_of_several_dtypes_are_restored_in_the_dtype_that_the_streams_had() -> None:
    X, past, n, axis = history(4, "last", 6)
    X = X.bfloat16()
    past[:4:2], past[4::2] = [y.bfloat16() for y in past[:4:2]], [y.float() for y in past[4::2]]
    expected = X
    for y, mix in zip(past[::2], past[1::2], strict=True):
        expected = cpu_launch.write(expected, y, mix, n, axis)
    found = recomputed.restore(X, past, n, axis)
    assert found.dtype == torch.float32 and torch.equal(found, expected)
    operands = (torch.randn_like(found), X, past, past[-2].bfloat16(), past[-1], n, axis)
    torch.library.opcheck(torch.ops.mhc.write_recomputed_backward.default, operands, test_utils="test_faketensor")


def arguments() -> tuple[Any, ...]:
    chain = Chain.of(3, "tiny", torch.float64)
    (y, mix, *_), (y2, mix2, *params) = chain.sites[:2]
    following = ops.write(chain.X, y, mix, n=3, axis=2).detach().requires_grad_()
    return following, y2, mix2, *params, 3, 2, chain.X, [y, mix]


def test_the_operators_pass_opcheck() -> None:
    X, y, mix, *params, n, axis, start, past = arguments()
    torch.library.opcheck(torch.ops.mhc.boundary_recomputed.default, (X, y, mix, *params, n, axis, "mhc", start, past))
    torch.library.opcheck(torch.ops.mhc.write_recomputed.default, (X, y, mix, n, axis, start, past))
    torch.library.opcheck(torch.ops.mhc.leave_recomputed.default, (X, y, mix, n, axis, 0.5, start, past))
    grad = torch.randn_like(y).detach()
    torch.library.opcheck(torch.ops.mhc.leave_recomputed_backward.default, (grad, start, past, y, mix, n, axis, 0.5))


def test_nothing_is_restored_where_nothing_is_kept(monkeypatch: pytest.MonkeyPatch) -> None:
    X, y, mix, *_, n, axis, start, past = arguments()
    called = []
    monkeypatch.setattr(ops, "call", lambda step, *args: called.append(step))
    with torch.no_grad():
        recomputed.write(X, y, mix, (start, *past), n=n, axis=axis)
    assert called == ["write"]


@pytest.mark.parametrize(
    ("change", "message"),
    [
        (lambda start, past: (start, past[:1]), "past holds 1 tensors"),
        (lambda start, past: (start, []), "past holds 0 tensors"),
        (lambda start, past: (start[:, :1], past), "the branch"),
        (lambda start, past: (start, [past[0], past[1][:1]]), "mix"),
        (lambda start, past: (start[:, :1], [past[0][:1], past[1][:3]]), "earlier streams of that segment"),
    ],
)
def test_a_past_that_does_not_fit_is_refused(change: Any, message: str) -> None:
    X, y, mix, *_, n, axis, start, past = arguments()
    with pytest.raises(KernelInputError, match=message):
        torch.ops.mhc.write_recomputed(X, y, mix, n, axis, *change(start, past))


@pytest.mark.slow
@pytest.mark.parametrize("dynamic", [False, True])  # with all sizes open, channels included, operators do the same work
def test_a_compiled_chain_restores_inside_its_backward(dynamic: bool) -> None:
    from torch._inductor.utils import run_and_get_code

    torch._dynamo.reset()
    chain = Chain.of(4, "last", torch.float32)
    compiled = torch.compile(lambda recompute: chain(recompute), fullgraph=True, dynamic=dynamic)

    def gradients() -> Sequence[Tensor | None]:
        loss = sum(t.double().square().sum() for t in compiled(True))
        return torch.autograd.grad(loss, chain.leaves, allow_unused=True)

    found, (forward, backward) = run_and_get_code(gradients)
    equal(found, chain.gradients(False), 1e-5)
    assert "mhc_restore" not in forward
    assert (backward.count("mhc_restore_") >= 3) is not dynamic
    assert ("torch.ops.mhc" in forward + backward) is dynamic
