from __future__ import annotations

from itertools import permutations

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from mhc_compile.kernels.formulas.projections import PROJECTIONS, TAU

DOUBLY_STOCHASTIC = sorted(PROJECTIONS.keys() - {"unconstrained"})


def sizes(name: str) -> list[int]:
    row = PROJECTIONS[name]
    return [n for n in range(2, row.max_streams + 1) if not row.powers or n.bit_count() == 1]


CASES = [(name, n) for name in PROJECTIONS for n in sizes(name)]


@pytest.mark.parametrize(("name", "n"), CASES)
def test_start_has_the_declared_number_of_logits(name, n):
    row = PROJECTIONS[name]
    assert row.start(n).shape == (row.logits(n),)
    assert row.matrix(row.start(n), n).shape == (n, n)


@pytest.mark.parametrize(("name", "n"), CASES)
def test_start_is_row_stochastic_and_maps_the_write_code_to_a_multiple_of_itself(name, n):
    R, e = PROJECTIONS[name].matrix(PROJECTIONS[name].start(n), n), PROJECTIONS[name].codes(n).write
    torch.testing.assert_close(R.sum(1), torch.ones(n).double(), rtol=0, atol=1e-14)
    assert abs(e.sum()) < 1e-15
    image = R @ e
    torch.testing.assert_close(image, (image @ e) / (e @ e) * e, rtol=0, atol=1e-14)
    assert (R.diagonal() > 0.4).all()


@pytest.mark.parametrize("n", [2, 3, 4])
def test_permutation_mixture_starts_at_sinkhorn_of_tau_identity(n):
    lite = PROJECTIONS["permutations"]
    expected = PROJECTIONS["sinkhorn"].matrix((TAU * torch.eye(n)).double().flatten(), n)
    torch.testing.assert_close(lite.matrix(lite.start(n), n), expected, rtol=0, atol=1e-14)


@pytest.mark.parametrize("n", [2, 3, 4])
def test_permutation_mixture_reaches_every_permutation(n):
    lite = PROJECTIONS["permutations"]
    for index, order in enumerate(permutations(range(n))):
        logits = torch.zeros(lite.logits(n), dtype=torch.float64)
        logits[index] = 100
        torch.testing.assert_close(lite.matrix(logits, n), torch.eye(n).double()[list(order)])


@settings(max_examples=30, deadline=None)
@given(n=st.integers(2, 4), seed=st.integers(0, 10_000), name=st.sampled_from(DOUBLY_STOCHASTIC))
def test_matrices_are_doubly_stochastic(n, seed, name):
    row = PROJECTIONS[name]
    n = 2 if row.powers and n == 3 else n
    logits = 0.3 * torch.randn(row.logits(n), 5, generator=torch.Generator().manual_seed(seed))
    R = row.matrix(logits, n)
    assert (R >= 0).all()
    assert (R.sum(1) - 1).abs().max() <= 1e-6
    assert (R.sum(0) - 1).abs().max() <= (1e-2 if name == "sinkhorn" else 1e-6)


def test_unconstrained_is_not_stochastic():
    R = PROJECTIONS["unconstrained"].matrix(torch.randn(9, 5, generator=torch.Generator().manual_seed(0)), 3)
    assert (R.sum(1) - 1).abs().max() > 0.5


@pytest.mark.parametrize("name", PROJECTIONS)
def test_logits_are_row_major_and_keep_dtype_and_token_dims(name):
    row = PROJECTIONS[name]
    n = 4 if row.powers else 3
    R = row.matrix(torch.zeros(row.logits(n), 2, 0, dtype=torch.float64), n)
    assert R.dtype == torch.float64
    assert R.shape == ((n, n, 1, 1) if name == "identity" else (n, n, 2, 0))


def test_row_major_logits_put_the_output_stream_first():
    logits = torch.zeros(9)
    logits[1] = 1.0  # row 0, column 1
    for name in ("sinkhorn", "unconstrained"):
        R = PROJECTIONS[name].matrix(logits, 3)
        assert R[0, 1] > R[1, 0]


@pytest.mark.parametrize("n", [2, 4, 8])
def test_kronecker_is_the_product_of_its_factors_the_first_of_which_mixes_halves(n):
    row, logits = PROJECTIONS["kronecker"], torch.randn(PROJECTIONS["kronecker"].logits(n), dtype=torch.float64)
    expected = torch.ones(1, 1, dtype=torch.float64)
    for keep in torch.softmax(logits.reshape(-1, 2), 1)[:, 0]:
        expected = torch.kron(expected, torch.stack([keep, 1 - keep, 1 - keep, keep]).reshape(2, 2))
    torch.testing.assert_close(row.matrix(logits, n), expected)
    torch.testing.assert_close(row.matrix(logits[:, None, None], n)[..., 0, 0], expected)


@pytest.mark.parametrize("n", [2, 3, 4, 7])
def test_circulant_is_the_gated_mixture_of_cyclic_shifts(n):
    logits = torch.randn(n + 1, dtype=torch.float64)
    gate, weights = torch.sigmoid(logits[0]), torch.softmax(logits[1:], 0)
    shift = torch.eye(n, dtype=torch.float64).roll(1, 1)
    mixture = sum(w * torch.linalg.matrix_power(shift, k) for k, w in enumerate(weights))
    R = PROJECTIONS["circulant"].matrix(logits, n)
    torch.testing.assert_close(R, (1 - gate) * torch.eye(n, dtype=torch.float64) + gate * mixture)
    assert (R - R.t()).abs().max() > 1e-3 or n == 2


@pytest.mark.parametrize("name", ["permutations", "kronecker", "circulant"])
@pytest.mark.parametrize("n", [2, 4])
def test_every_start_has_the_diagonal_of_sinkhorn_of_tau_identity(name, n):
    R = PROJECTIONS[name].matrix(PROJECTIONS[name].start(n), n)
    expected = PROJECTIONS["sinkhorn"].matrix((TAU * torch.eye(n)).double().flatten(), n)
    torch.testing.assert_close(R.diagonal(), expected.diagonal())
