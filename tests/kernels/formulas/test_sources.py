"""Reads of a list of sources against formulas written out, their gradients, and what autograd keeps of them."""

from __future__ import annotations

import math

import pytest
import torch
from torch import Tensor

from mhc_compile.errors import InvalidOptionError
from mhc_compile.kernels.formulas import connections
from mhc_compile.kernels.operators.sources import begin_sum, read_sources
from tests.tables import also

C, RANK = 6, 3
CONNECTIONS = ["attention", "dense", f"dense:rank={RANK}"]


def drawn(connection: str, count: int, dtype: torch.dtype = torch.float64) -> tuple[list[Tensor], list[Tensor]]:
    generator = torch.Generator().manual_seed(0)
    shapes = connections.parameter_shapes(connection, count, C)
    values = [torch.randn(2, 3, C, generator=generator, dtype=torch.float64).to(dtype) for _ in range(count)]
    wide = torch.float64 if dtype == torch.float64 else torch.float32
    params = [torch.randn(shape, generator=generator, dtype=torch.float64).to(wide) for shape in shapes.values()]
    return [v.requires_grad_() for v in values], [p.requires_grad_() for p in params]


def by_hand(connection: str, values: list[Tensor], params: list[Tensor]) -> Tensor:
    """Token by token."""
    u = torch.zeros_like(values[-1])
    for b in range(u.shape[0]):
        for t in range(u.shape[1]):
            at = [v[b, t] for v in values]
            normed = [s / math.sqrt(sum(float(x) ** 2 for x in s) / C + 1e-6) for s in at]
            if connection == "attention":
                scores = [math.exp(sum(float(q) * float(x) for q, x in zip(params[0], s, strict=True)) / math.sqrt(C))
                          for s in normed]  # fmt: skip
                u[b, t] = sum(w / sum(scores) * s for w, s in zip(scores, normed, strict=True))
                continue
            weights = [float(a) for a in params[0]]
            if len(params) > 1:
                _, down, up = params
                hidden = [sum(float(normed[-1][c] * down[c, r]) for c in range(C)) for r in range(RANK)]
                hidden = [0.5 * h * (1 + math.erf(h / math.sqrt(2))) for h in hidden]
                weights = [w + sum(h * float(up[r, k]) for r, h in enumerate(hidden)) for k, w in enumerate(weights)]
            u[b, t] = sum(w * s for w, s in zip(weights, at, strict=True))
    return u


@pytest.mark.parametrize("connection", CONNECTIONS)
def test_a_read_is_its_formula(connection: str) -> None:
    values, params = drawn(connection, 4)
    with torch.no_grad():
        expected = by_hand(connection, values, params)
        torch.testing.assert_close(read_sources(values, params, connection=connection, axis=-1), expected)
        moved = [v.movedim(-1, 1) for v in values]
        found = read_sources(moved, params, connection=connection, axis=1)
    torch.testing.assert_close(found.movedim(1, -1), expected)


@pytest.mark.parametrize("connection", CONNECTIONS)
def test_reads_pass_gradcheck_twice(connection: str) -> None:
    values, params = drawn(connection, 3)

    def read(*tensors: Tensor) -> Tensor:
        return read_sources(tensors[:3], tensors[3:], connection=connection, axis=-1)

    assert torch.autograd.gradcheck(read, (*values, *params))
    assert torch.autograd.gradgradcheck(read, (*values, *params), atol=1e-4)


@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float32])
@pytest.mark.parametrize("connection", CONNECTIONS)
def test_a_read_keeps_the_sources_themselves_and_a_few_numbers_per_token(connection: str, dtype: torch.dtype) -> None:
    values, params = drawn(connection, 5, dtype)
    kept: dict[int, Tensor] = {}
    with torch.autograd.graph.saved_tensors_hooks(lambda t: kept.setdefault(t.data_ptr(), t), lambda t: t):
        u = read_sources(values, params, connection=connection, axis=-1)
    assert u.dtype == dtype
    own = {t.data_ptr() for t in (*values, *params)}
    tokens = values[0].numel() // C
    others = [t for address, t in kept.items() if address not in own and t.numel() > tokens * len(values)]
    assert not [t.shape for t in others if t.numel() >= values[0].numel() and t.shape[-1] == C]


@pytest.mark.parametrize(
    ("dtype", "size", "tolerance"),  # gradients of parameters, summed over tokens, are beyond fp16 at 1e4
    [(torch.bfloat16, 1.0, 2e-2), (torch.bfloat16, 1e4, 2e-2), *also((torch.float16, 1.0, 2e-3))],
)
@pytest.mark.parametrize("connection", CONNECTIONS)
def test_reads_in_half_precision_are_near_those_in_fp64(connection, dtype, tolerance, size) -> None:
    values, params = drawn(connection, 4, dtype)
    exact = [t.detach().double().requires_grad_() for t in (*values, *params)]
    g = size * torch.randn(values[-1].shape, generator=torch.Generator().manual_seed(1))
    u = read_sources(values, params, connection=connection, axis=-1)
    wanted = read_sources(exact[:4], exact[4:], connection=connection, axis=-1)
    found = (u, *torch.autograd.grad((u.float() * g).sum(), [*values, *params]))
    expected = (wanted, *torch.autograd.grad((wanted * g).sum(), exact))
    for one, other in zip(found, expected, strict=True):
        assert torch.isfinite(one).all()
        assert (one.double() - other).norm() <= tolerance * other.norm()


@pytest.mark.parametrize("init", ["preserve", "random", "paper"])
def test_dense_starts_at_the_newest_source_and_attention_at_the_mean_of_normed_ones(init: str) -> None:
    values, _ = drawn("dense", 4)
    options = {"position": 2, "linear": True, "init": init, "dtype": torch.float64, "device": "cpu"}
    dense = connections.initial_values(f"dense:rank={RANK}", 4, C, **options)
    near = 0.2 if init == "random" else 0
    u = read_sources(values, list(dense.values()), connection="dense:rank=3", axis=-1)
    assert (u - values[-1]).abs().max() <= near
    assert dense["down"].abs().max() > 0 and (dense["up"].abs().max() > 0) == (init == "random")
    query = list(connections.initial_values("attention", 4, C, **options).values())
    normed = [v / (v.square().mean(-1, keepdim=True) + 1e-6).sqrt() for v in values]
    mean = torch.stack(normed).mean(0)
    assert (read_sources(values, query, connection="attention", axis=-1) - mean).abs().max() <= (near or 1e-12)


def test_a_single_source_needs_no_parameters_and_streams_are_no_sources() -> None:
    assert all(connections.parameter_shapes(name, 1, C) == {} for name in CONNECTIONS)
    values, _ = drawn("dense", 2)
    with pytest.raises(InvalidOptionError, match="keeps streams"):
        read_sources(values, [], connection="mhc", axis=-1)


def test_a_sum_that_begins_anew_has_the_dtype_of_the_sum() -> None:
    x, y = torch.ones(2, dtype=torch.float32), torch.ones(2, dtype=torch.bfloat16)
    assert begin_sum(x, y).dtype == begin_sum(y, x).dtype == torch.float32
