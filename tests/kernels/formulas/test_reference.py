from __future__ import annotations

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from mhc_compile.kernels.formulas import reference
from mhc_compile.kernels.formulas.projections import PROJECTIONS


def logits(n: int, tokens: int, seed: int, dtype: torch.dtype = torch.float32) -> torch.Tensor:
    return torch.randn(n, n, tokens, dtype=dtype, generator=torch.Generator().manual_seed(seed))


def literal_sinkhorn(L: torch.Tensor) -> torch.Tensor:
    M = torch.exp(L)
    for _ in range(20):
        M = M / M.sum(0, keepdim=True)
        M = M / M.sum(1, keepdim=True)
    return M


@pytest.mark.parametrize("n", [1, 2, 3, 4, 8])
def test_sinkhorn_is_the_formula_written_out(n):
    L = logits(n, 50, seed=n, dtype=torch.float64)
    torch.testing.assert_close(reference.sinkhorn(L), literal_sinkhorn(L), rtol=0, atol=1e-14)


@settings(max_examples=30, deadline=None)
@given(n=st.integers(1, 8), seed=st.integers(0, 10_000), std=st.sampled_from([0.1, 1.0, 10.0]))
def test_sinkhorn_rows_sum_to_one(n, seed, std):
    R = reference.sinkhorn(std * logits(n, 7, seed))
    assert (R.sum(1) - 1).abs().max() <= 1e-6
    assert (R >= 0).all()


@pytest.mark.parametrize("n", [3, 4, 8])
def test_sinkhorn_columns_sum_to_one_for_logits_of_std_one(n):
    error = (reference.sinkhorn(logits(n, 200, seed=0)).sum(0) - 1).abs()
    assert error.max() <= 1e-3
    assert error.max() > 0  # only the rows end exact


def test_two_streams_need_more_iterations_for_rare_logits():
    error = (reference.sinkhorn(logits(2, 2000, seed=0)).sum(0) - 1).abs().amax(0)
    assert error.quantile(0.99) <= 1e-3
    many = reference.sinkhorn(logits(2, 2000, seed=0), iterations=500)
    assert (many.sum(0) - 1).abs().max() <= 1e-4


def test_sinkhorn_survives_logits_that_underflow_a_column():
    L = torch.tensor([[0.0, -500.0], [0.0, -500.0]])
    assert literal_sinkhorn(L).isnan().any()
    torch.testing.assert_close(reference.sinkhorn(L), torch.full((2, 2), 0.5))


def test_sinkhorn_survives_logits_that_overflow_and_ignores_a_shift():
    L = logits(4, 9, seed=0, dtype=torch.float64)
    assert literal_sinkhorn(L + 800).isnan().any()
    torch.testing.assert_close(reference.sinkhorn(L + 800), reference.sinkhorn(L), rtol=0, atol=1e-12)


@pytest.mark.parametrize("bad", [float("nan"), float("inf")])
def test_sinkhorn_does_not_mask_bad_logits(bad):
    L = torch.zeros(3, 3, 2)
    L[0, 0, 0] = bad
    R = reference.sinkhorn(L)
    assert R[..., 0].isnan().any()
    assert R[..., 1].isfinite().all()


def test_composite_gain_stays_bounded_on_the_manifold_and_explodes_off_it():
    gains = {}
    for name in ("sinkhorn", "unconstrained"):
        product = torch.eye(4, dtype=torch.float64).expand(8, 4, 4)
        for site in range(64):
            L = logits(4, 8, seed=site, dtype=torch.float64).reshape(16, 8)
            product = PROJECTIONS[name].matrix(L, 4).movedim(-1, 0) @ product
        gains[name] = max(product.sum(1).abs().max().item(), product.sum(2).abs().max().item())
    print(f"composite gain over 64 sites: mhc {gains['sinkhorn']:.4f}, hc {gains['unconstrained']:.3e}")
    assert gains["sinkhorn"] <= 2 < gains["unconstrained"]


def gradient_at(tau: float) -> float:
    L = (tau * torch.eye(4, dtype=torch.float64)).requires_grad_()
    weights = torch.randn(4, 4, dtype=torch.float64, generator=torch.Generator().manual_seed(0))
    (reference.sinkhorn(L) * weights).sum().backward()
    return L.grad.abs().max().item()


def test_a_large_diagonal_kills_the_gradient_of_sinkhorn():
    at = {tau: gradient_at(tau) for tau in (2.0, 4.0, 8.0, 20.0)}
    assert at[2.0] > 0.05
    assert at[2.0] > at[4.0] > at[8.0] > at[20.0]
    assert at[8.0] < 1e-2 * at[2.0] and at[20.0] < 1e-6


@pytest.mark.parametrize("axis", [0, 1, 2])
def test_normed_projection_is_the_formula_on_concatenated_streams(axis):
    n, shape = 3, (2, 5, 4)
    C = shape[axis]
    X, phi = torch.randn(n, *shape, dtype=torch.float64), torch.randn(n * C, 6, dtype=torch.float64)
    v = torch.cat([stream.movedim(axis, -1) for stream in X], dim=-1)
    z = (v @ phi) / torch.sqrt((v**2).mean(-1, keepdim=True) + 1e-6)
    result = reference.normed_projection(X, phi, n=n, axis=axis)
    assert result.shape[axis + 1] == 1
    torch.testing.assert_close(result.squeeze(axis + 1), z.movedim(-1, 0))


def test_normed_projection_does_not_depend_on_the_scale_of_the_streams():
    X, phi = torch.randn(2, 3, 8, dtype=torch.float64), torch.randn(16, 4, dtype=torch.float64)
    a, b = (reference.normed_projection(s * X, phi, n=2, axis=1) for s in (1.0, 100.0))
    torch.testing.assert_close(a, b, rtol=1e-5, atol=1e-5)


def test_gates_are_bounded_by_one_and_two():
    z, alpha = torch.linspace(-30, 30, 101), torch.ones(1)
    assert reference.read_gate(z, alpha, torch.zeros(1)).max() <= 1
    post = reference.write_gate(z, alpha, torch.zeros(1))
    assert post.max() <= 2 and abs(post[50] - 1) < 1e-5


def test_hyper_coefficients_are_the_paper_written_out():
    """Equations of arXiv 2409.19606 per token: H [n, C] rows are streams, H' = B^T f(A_m^T H) + A_r^T H."""
    n, C = 3, 6
    H = torch.randn(n, C, dtype=torch.float64)
    sizes = [(n,), (n,), (n, n), (C,), (C,), (C, n), (1,), (1,), (1,)]
    params = [torch.randn(*size, dtype=torch.float64) for size in sizes]
    static_pre, static_post, static_res, w_pre, w_post, w_res, s_pre, s_post, s_res = params
    normed = (H - H.mean(1, keepdim=True)) / torch.sqrt(H.var(1, unbiased=False, keepdim=True) + 1e-5)
    A_m = static_pre + s_pre * torch.tanh(normed @ w_pre)
    B = static_post + s_post * torch.tanh(normed @ w_post)
    A_r = static_res + s_res * torch.tanh(normed @ w_res)
    pre, post, R = reference.hyper_coefficients(H[:, None], params, n=n, axis=1)
    torch.testing.assert_close(reference.read(H[:, None], pre)[0], A_m @ H)
    y = torch.randn(1, C, dtype=torch.float64)
    torch.testing.assert_close(reference.write(H[:, None], y, post, R)[:, 0], torch.outer(B, y[0]) + A_r.T @ H)
    assert not torch.allclose(R[..., 0, 0], A_r)
